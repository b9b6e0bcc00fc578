"""The words of a document that no type checks: keys of mappings, and headers that it must leave alone."""

from collections.abc import Iterator, Mapping

from mesh.config.document.models import MeshDocument, Service
from mesh.config.document.routing import Fault, HeaderEdits
from mesh.config.document.values import HEADER_NAME, INTENTION_NAME, SERVICE_NAME, SUBSET_NAME, Form
from mesh.config.yaml_lines import Path

SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "x-api-key", "x-auth-token"})
"""Headers whose value has no other use than to be a secret."""

_NOT_FOR_DOCUMENTS = {
    "host": "Envoy does not let it be changed; see rewrite.authority",
    "x-forwarded-client-cert": "it tells who calls, and only sidecars may say so",
}

_Flaws = Iterator[tuple[Path, str]]


def words_flaws(document: MeshDocument) -> _Flaws:
    """Keys that cannot be names, changes of headers that nobody may change, and secrets in the clear."""
    yield from _fault(("defaults", "fault"), document.defaults.fault)
    yield from _keys(("services",), document.services, SERVICE_NAME)
    for name, service in document.services.items():
        yield from _service(("services", name), service)
    yield from _keys(("intentions",), document.intentions, INTENTION_NAME)
    for name, intention in document.intentions.items():
        yield from _keys(("intentions", name, "headers"), intention.headers, HEADER_NAME)


def _service(at: Path, service: Service) -> _Flaws:
    yield from _keys((*at, "subsets"), service.subsets, SUBSET_NAME)
    yield from _fault((*at, "fault"), service.fault)
    for number, route in enumerate(service.routes):
        here: Path = (*at, "routes", number)
        yield from _keys((*here, "match", "headers"), route.match.headers, HEADER_NAME)
        yield from _fault((*here, "fault"), route.fault)
        yield from _edits((*here, "headers", "request"), route.headers.request)
        yield from _edits((*here, "headers", "response"), route.headers.response)


def _fault(at: Path, fault: Fault | None) -> _Flaws:
    if fault is not None:
        yield from _keys((*at, "headers"), fault.headers, HEADER_NAME)


def _edits(at: Path, edits: HeaderEdits) -> _Flaws:
    for how, values in (("set", edits.set), ("add", edits.add)):
        yield from _keys((*at, how), values, HEADER_NAME)
        for name, value in values.items():
            if name in _NOT_FOR_DOCUMENTS:
                yield (*at, how, name), _NOT_FOR_DOCUMENTS[name]
            elif name in SECRET_HEADERS and isinstance(value, str):
                yield (
                    (*at, how, name),
                    "a secret must not stand in the document; write {secret: env:NAME}, file:/PATH or kv:NAME",
                )
    for number, name in enumerate(edits.remove):
        if name in _NOT_FOR_DOCUMENTS:
            yield (*at, "remove", number), _NOT_FOR_DOCUMENTS[name]


def _keys(at: Path, names: Mapping[str, object], form: Form) -> _Flaws:
    for name in names:
        if form.pattern.fullmatch(name) is None:
            yield (*at, name), form.advice
