"""ConfigService: operators read, check, plan, apply, watch and take back the mesh document."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

import grpc
from google.protobuf.duration_pb2 import Duration

from agentmesh.config.v1 import config_pb2, config_service_pb2, config_service_pb2_grpc
from mesh.config.history import OPERATOR, Draft, Head, Layer, Revision, Status
from mesh.errors import DocumentInvalid, InvalidInput, NotFound
from mesh.state import StateStore
from mesh.xds import AdsServer, names
from mesh.xds.explain import explain_call
from mesh.xds.rollout import resource_changes, resource_text
from services.control_plane.config_access import Access
from services.control_plane.config_codec import (
    changes_to_proto,
    explained_to_proto,
    fault_to_proto,
    layers_to_proto,
    origins_to_proto,
    refused_to_proto,
    resources_to_proto,
    revision_to_proto,
)
from services.control_plane.config_sources import ConfigSources
from services.control_plane.document_reader import changed_fields, read_layers
from services.control_plane.rollout import Outcome, Rollout

DEFAULT_WAIT = 5.0
LONGEST_WAIT = 60.0
_LONGEST_MESSAGE = 1000
_LONGEST_DOCUMENT = 1 << 20
_PAGE = 50
_MOST_PAGE = 1000


@dataclass(frozen=True, slots=True)
class ConfigParts:
    """What the service answers from. `draining` is set when streams are to end."""

    rollout: Rollout
    sources: ConfigSources
    ads: AdsServer
    store: StateStore
    draining: asyncio.Event


class ConfigServicer(config_service_pb2_grpc.ConfigServiceServicer):
    """Answers on one port; `access` tells who calls and refuses who may not."""

    def __init__(self, parts: ConfigParts, access: Access) -> None:
        self._rollout = parts.rollout
        self._history = parts.rollout.history
        self._sources = parts.sources
        self._ads = parts.ads
        self._store = parts.store
        self._draining = parts.draining
        self._access = access

    async def GetDocument(
        self, request: config_service_pb2.GetDocumentRequest, context: grpc.ServicerContext
    ) -> config_service_pb2.GetDocumentResponse:
        self._access()
        head = await self._history.head()
        revision = await self._history.get(request.revision or head.active)
        reading = read_layers(revision.draft.layers, revision=revision.number)
        return config_service_pb2.GetDocumentResponse(
            revision=revision_to_proto(revision, head),
            document=reading.text,
            layers=layers_to_proto(revision.draft.layers),
            origins=origins_to_proto(reading.loaded) if request.with_origins else (),
            refused_layers=refused_to_proto(self._sources.refused.values()),
        )

    async def ValidateDocument(
        self, request: config_service_pb2.ValidateDocumentRequest, context: grpc.ServicerContext
    ) -> config_service_pb2.ValidateDocumentResponse:
        self._access()
        try:
            await self._rollout.check(self._layers_with(request.document, request.source))
        except InvalidInput as err:
            return config_service_pb2.ValidateDocumentResponse(faults=_faults(err))
        return config_service_pb2.ValidateDocumentResponse()

    async def PlanDocument(
        self, request: config_service_pb2.PlanDocumentRequest, context: grpc.ServicerContext
    ) -> config_service_pb2.PlanDocumentResponse:
        self._access()
        head = await self._history.head()
        try:
            check = await self._rollout.check(self._layers_with(request.document, request.source))
        except InvalidInput as err:
            return config_service_pb2.PlanDocumentResponse(faults=_faults(err), revision=head.newest)
        current = self._rollout.trials.current
        secrets = {*current.policy.secrets.values(), *check.reading.policy.secrets.values()}
        changes = (
            change
            for node, (before, after) in sorted(check.snapshots.items())
            for change in resource_changes(node, before, after, secrets)
        )
        return config_service_pb2.PlanDocumentResponse(
            revision=head.newest,
            changes=changes_to_proto(changed_fields(current.reading, check.reading)),
            resources=resources_to_proto(changes) if request.with_resources else (),
            remarks=[fault_to_proto(remark) for remark in check.remarks],
        )

    async def ApplyDocument(
        self, request: config_service_pb2.ApplyDocumentRequest, context: grpc.ServicerContext
    ) -> config_service_pb2.ApplyDocumentResponse:
        author = self._access()
        layers = self._layers_with(request.document, request.source)
        draft = Draft(
            author=author,
            message=_checked_message(request.message),
            layers=layers,
            document_version="",
            seen=self._sources.seen_with(layers, OPERATOR),
        )
        expected = request.expected_revision if request.HasField("expected_revision") else None
        wait = _wait_of(request.wait if request.HasField("wait") else None)
        outcome = await self._rollout.apply(draft, expected=expected, wait=wait, only=OPERATOR)
        self._sources.note_applied(request.document)
        return config_service_pb2.ApplyDocumentResponse(
            revision=await self._to_proto(outcome), proxies_acked=outcome.acked, proxies_waiting=outcome.waiting
        )

    async def ListRevisions(
        self, request: config_service_pb2.ListRevisionsRequest, context: grpc.ServicerContext
    ) -> config_service_pb2.ListRevisionsResponse:
        self._access()
        size = request.page_size or _PAGE
        if not 0 < size <= _MOST_PAGE:
            raise InvalidInput(f"A page has 1 to {_MOST_PAGE} revisions.", field="page_size")
        head = await self._history.head()
        found = await self._history.list(before=_parse_token(request.page_token), count=size)
        has_more = len(found) == size and found[-1].number > 1
        return config_service_pb2.ListRevisionsResponse(
            revisions=[revision_to_proto(revision, head) for revision in found],
            next_page_token=str(found[-1].number) if has_more else "",
        )

    async def RollbackDocument(
        self, request: config_service_pb2.RollbackDocumentRequest, context: grpc.ServicerContext
    ) -> config_service_pb2.RollbackDocumentResponse:
        author = self._access()
        message = _checked_message(request.message)
        head = await self._history.head()
        if head.staged and not request.revision:
            await self._rollout.unstage(head.staged, author=author, reason=message)
            undone, head = await self._history.get(head.staged), await self._history.head()
            return config_service_pb2.RollbackDocumentResponse(revision=revision_to_proto(undone, head))
        target = await self._target_of(request.revision, head)
        draft = Draft(
            author=author,
            message=message or f"back to revision {target.number}",
            layers=target.draft.layers,
            document_version="",
            restores=target.number,
            seen=self._sources.seen_with(target.draft.layers, OPERATOR),
        )
        expected = request.expected_revision if request.HasField("expected_revision") else None
        wait = _wait_of(request.wait if request.HasField("wait") else None)
        outcome = await self._rollout.apply(draft, expected=expected, wait=wait)
        self._sources.note_applied(next((la.text for la in draft.layers if la.name == OPERATOR), ""))
        return config_service_pb2.RollbackDocumentResponse(
            revision=await self._to_proto(outcome), proxies_acked=outcome.acked, proxies_waiting=outcome.waiting
        )

    async def _target_of(self, number: int, head: Head) -> Revision:
        if number:
            return await self._history.get(number)
        for revision in await self._history.list(before=head.active):
            if head.status_of(revision) is Status.SUPERSEDED:
                return revision
        raise NotFound(
            f"No revision before {head.active} was ever in force.",
            reason="NOTHING_TO_RESTORE",
            field="revision",
            fix="See `meshctl history`.",
        )

    async def WatchDocument(
        self, request: config_service_pb2.WatchDocumentRequest, context: grpc.ServicerContext
    ) -> AsyncIterator[config_service_pb2.WatchDocumentResponse]:
        self._access()
        seen: config_pb2.Revision | None = None
        heads = aiter(self._history.watch())
        draining = asyncio.ensure_future(self._draining.wait())
        try:
            while True:
                upcoming = asyncio.ensure_future(anext(heads))
                await asyncio.wait((draining, upcoming), return_when=asyncio.FIRST_COMPLETED)
                if draining.done():
                    upcoming.cancel()
                    await asyncio.gather(upcoming, return_exceptions=True)
                    return
                head = upcoming.result()
                if not head.newest:
                    continue
                found = revision_to_proto(await self._history.get(head.newest), head)
                if found != seen:
                    seen = found
                    yield config_service_pb2.WatchDocumentResponse(revision=found)
        finally:
            draining.cancel()

    async def ListProxyResources(
        self, request: config_service_pb2.ListProxyResourcesRequest, context: grpc.ServicerContext
    ) -> config_service_pb2.ListProxyResourcesResponse:
        self._access()
        kinds = {short: url for url, short in names.SHORT_NAMES.items()}
        if request.type and request.type not in kinds:
            raise InvalidInput(
                f"{request.type!r} is no type of resources.", field="type", fix=f"Use one of {', '.join(kinds)}."
            )
        trials = self._rollout.trials
        policy = trials.policy_for(request.node_id) or trials.current.policy
        snapshot = self._ads.preview(request.node_id, policy)
        if snapshot is None:
            raise NotFound(f"No proxy {request.node_id!r} is connected.", field="node_id", fix="See `meshctl proxies`.")
        return config_service_pb2.ListProxyResourcesResponse(
            resources=[
                config_pb2.ProxyResource(
                    type=short,
                    name=resource.name,
                    version=resource.version,
                    document=resource_text(resource, policy.secrets.values()),
                )
                for short, url in kinds.items()
                if request.type in ("", short)
                for _, resource in sorted(snapshot.of(url).items())
            ]
        )

    async def ExplainCall(
        self, request: config_service_pb2.ExplainCallRequest, context: grpc.ServicerContext
    ) -> config_service_pb2.ExplainCallResponse:
        self._access()
        for name in ("caller", "callee", "method"):
            if not getattr(request, name):
                raise InvalidInput("This is needed.", field=name)
        found = explain_call(self._store.current, request.caller, request.callee, request.method, dict(request.headers))
        return explained_to_proto(found)

    def _layers_with(self, document: str, source: str) -> tuple[Layer, ...]:
        """The layers that are in force, with another operator's layer."""
        if len(document.encode()) > _LONGEST_DOCUMENT:
            raise InvalidInput(f"The document has more than {_LONGEST_DOCUMENT} bytes.", field="document")
        kept = [layer for layer in self._rollout.trials.current.revision.draft.layers if layer.name != OPERATOR]
        return (*kept, Layer(OPERATOR, source or "document", document))

    async def _to_proto(self, outcome: Outcome) -> config_pb2.Revision:
        return revision_to_proto(outcome.revision, await self._history.head())


def _faults(err: InvalidInput) -> Iterable[config_pb2.Fault]:
    if isinstance(err, DocumentInvalid):
        return [fault_to_proto(fault) for fault in err.faults]
    return [config_pb2.Fault(field=err.field, reason=f"{err.summary} {err.fix}".strip())]


def _checked_message(message: str) -> str:
    if len(message) > _LONGEST_MESSAGE:
        raise InvalidInput(f"The message has more than {_LONGEST_MESSAGE} characters.", field="message")
    return message


def _wait_of(wait: Duration | None) -> float:
    seconds = DEFAULT_WAIT if wait is None else wait.seconds + wait.nanos / 1e9
    if not 0 <= seconds <= LONGEST_WAIT:
        raise InvalidInput(f"It waits for 0 to {LONGEST_WAIT:g} s.", field="wait")
    return seconds


def _parse_token(token: str) -> int:
    if token and not (token.isascii() and token.isdigit() and len(token) < 19):
        raise InvalidInput(f"{token[:40]!r} is no page token.", field="page_token", fix="Begin with the first page.")
    return int(token or "0")
