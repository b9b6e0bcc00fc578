"""What no single value shows: names that lead nowhere, circles, and parts that contradict each other."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import timedelta

from mesh.config.document.access_references import access_flaws, services_at_the_edge
from mesh.config.document.loading import LoadedDocument
from mesh.config.document.models import MeshDocument, Service
from mesh.config.document.policy import Policy
from mesh.config.document.routing import Rewrite, Route
from mesh.config.document.values import TARGET, split_target
from mesh.config.document.words import words_flaws
from mesh.config.reasons import nearest
from mesh.config.yaml_lines import Path
from mesh.errors import Fault
from mesh.model import RESERVED_NAMES

_EDGE = "gateway"
"""Every mesh has it, or may have it."""

_Flaws = Iterator[tuple[Path, str]]


def check_references(loaded: LoadedDocument, known_services: Collection[str] | None) -> tuple[Fault, ...]:
    """Everything that is wrong with a document whose values are each good, sorted by place; none for a good document.

    `known_services` are those that there are; the document may also name services that it has under `services` itself.
    None: which there are is not known, and only the subsets of services in the document are looked up.
    """
    document = loaded.document
    flaws: list[tuple[Path, str]] = [*words_flaws(document)]
    names = _Names(document, known_services)
    for name, service in document.services.items():
        at: Path = ("services", name)
        flaws += names.of_service(at, service)
        flaws += _authorities(at, service, names)
        for number, route in enumerate(service.routes):
            flaws += names.of_route((*at, "routes", number), route)
            flaws += _route((*at, "routes", number), route)
        flaws += _weights((*at, "split"), service.split)
        flaws += _repeated((*at, "routes"), [route.name for route in service.routes])
    if document.defaults.fault is not None:
        flaws += names.all_known(("defaults", "fault", "callers"), document.defaults.fault.callers)
    flaws += _times(document)
    flaws += _repeated_authorities(document)
    for name, intention in document.intentions.items():
        for side in ("callers", "services"):
            flaws += names.all_known(("intentions", name, side), getattr(intention, side), star=True)
    flaws += access_flaws(document)
    for at, services in services_at_the_edge(document):
        flaws += names.all_known(at, services, star=True)
    flaws += _circles(document, "fallback", lambda service: service.fallback)
    flaws += _circles(document, "routes", _routed)
    return tuple(sorted({loaded.fault(path, reason) for path, reason in flaws}))


def find_absent_services(loaded: LoadedDocument, known_services: Collection[str]) -> tuple[Fault, ...]:
    """The services under `services` that there are none of: they may be to come, or misspelt. Sorted by place."""
    absent = loaded.document.services.keys() - {*known_services, _EDGE}
    names = set(known_services) - set(RESERVED_NAMES)
    reason = "there is no such service so far"
    return tuple(sorted(loaded.fault(("services", name), reason + nearest(name, names)) for name in absent))


class _Names:
    """Services and subsets, and where a document names them."""

    def __init__(self, document: MeshDocument, known: Collection[str] | None) -> None:
        self._services = document.services
        self.known = None if known is None else {*known, _EDGE, *document.services} - set(RESERVED_NAMES)
        self.taken = {*(known or ()), *document.services, *RESERVED_NAMES}

    def of_service(self, at: Path, service: Service) -> _Flaws:
        if at[-1] in RESERVED_NAMES:
            yield at, f"the name {at[-1]!r} is reserved for the mesh itself"
        yield from self.all_known((*at, "upstreams"), service.upstreams or (), star=True)
        for target in service.split:
            yield from self._target((*at, "split", target), target)
        for number, target in enumerate(service.fallback):
            yield from self._target((*at, "fallback", number), target)
        if service.fault is not None:
            yield from self.all_known((*at, "fault", "callers"), service.fault.callers)

    def of_route(self, at: Path, route: Route) -> _Flaws:
        if route.to is not None:
            yield from self._target((*at, "to"), route.to)
        for target in route.split:
            yield from self._target((*at, "split", target), target)
        if route.mirror is not None:
            yield from self._target((*at, "mirror", "to"), route.mirror.to)
        if route.fault is not None:
            yield from self.all_known((*at, "fault", "callers"), route.fault.callers)

    def all_known(self, at: Path, names: Iterable[str], *, star: bool = False) -> _Flaws:
        for number, name in enumerate(names):
            if not (star and name == "*"):
                yield from self._service((*at, number), name)

    def _service(self, at: Path, name: str) -> _Flaws:
        if name in RESERVED_NAMES:
            yield at, f"the name {name!r} is reserved for the mesh itself"
        elif self.known is not None and name not in self.known:
            advice = nearest(name, self.known) or "; start it, or name it under `services` if it is to come"
            yield at, f"there is no service {name!r}{advice}"

    def _target(self, at: Path, target: str) -> _Flaws:
        if TARGET.pattern.fullmatch(target) is None:
            yield at, TARGET.advice
            return
        name, subset = split_target(target)
        yield from self._service(at, name)
        if subset:
            subsets = self._services[name].subsets if name in self._services else {}
            if subset not in subsets and (self.known is None or name in self.known):
                advice = nearest(subset, subsets) or (f"; there are {', '.join(subsets)}" if subsets else "")
                yield at, f"{name} has no subset {subset!r}{advice or f'; describe it under services.{name}.subsets'}"


def _route(at: Path, route: Route) -> _Flaws:
    if route.to is not None and route.split:
        yield (*at, "split"), "give either to or split"
    yield from _weights((*at, "split"), route.split)
    rewrite, path = route.rewrite or Rewrite(), route.match.path
    if rewrite.prefix is not None and (path is None or path.prefix is None):
        yield (*at, "rewrite", "prefix"), "there is no match.path.prefix that it could replace"
    if route.rate_limit is not None and route.match.authority is not None:
        yield (
            (*at, "rate_limit"),
            "a route that matches on authority cannot have one: the service that counts does not see the authority",
        )


def _weights(at: Path, split: Mapping[str, int]) -> _Flaws:
    if split and not any(split.values()):
        yield at, "all weights are 0, so that no request could go anywhere"


def _times(document: MeshDocument) -> _Flaws:
    """A try that may take longer than the whole never ends by its own limit."""
    policy = Policy(document)
    for name, service in document.services.items():
        effective = policy.of(name)
        for own in ("retry", "timeout"):
            if own in service.model_fields_set:
                yield from _tries(("services", name, own), effective.timeout, effective.retry.per_try_timeout)
                break
        for number, route in enumerate(service.routes):
            timeout = effective.timeout if route.timeout is None else route.timeout
            retry = route.retry or effective.retry
            own = "retry" if route.retry is not None else "timeout"
            if route.retry is not None or route.timeout is not None:
                yield from _tries(("services", name, "routes", number, own), timeout, retry.per_try_timeout)
    yield from _tries(("defaults", "retry"), document.defaults.timeout, document.defaults.retry.per_try_timeout)


def _tries(at: Path, timeout: timedelta | None, per_try: timedelta | None) -> _Flaws:
    if timeout and per_try is not None and per_try > timeout:
        where = (*at, "per_try_timeout") if at[-1] == "retry" else at
        yield where, "per_try_timeout is longer than the timeout of the whole request"


def _repeated(at: Path, names: list[str]) -> _Flaws:
    counts = Counter(names)
    seen: set[str] = set()
    for number, name in enumerate(names):
        if counts[name] > 1 and name in seen:
            yield (*at, number, "name"), f"the name {name!r} stands here twice"
        seen.add(name)


def _authorities(at: Path, service: Service, names: _Names) -> _Flaws:
    for number, authority in enumerate(service.authorities):
        if authority.endswith(".mesh"):
            yield (*at, "authorities", number), "names that end in .mesh are those of services"
        elif authority.removesuffix(".localhost") in names.taken:
            yield (*at, "authorities", number), f"{authority!r} is the name of a service"


def _repeated_authorities(document: MeshDocument) -> _Flaws:
    owners: dict[str, str] = {}
    for name, service in document.services.items():
        for number, authority in enumerate(service.authorities):
            if authority in owners:
                at = ("services", name, "authorities", number)
                yield at, f"{owners[authority]} has the authority {authority!r}, too"
            owners.setdefault(authority, name)


def _routed(service: Service) -> Iterator[str]:
    """Where requests go on; mirrors end where they arrive."""
    for route in service.routes:
        yield from (route.to,) if route.to is not None else route.split
    yield from service.split


def _circles(document: MeshDocument, what: str, targets_of: Callable[[Service], Iterable[str]]) -> _Flaws:
    """Services that lead to each other; each circle is told once. A subset leads nowhere, and a route may lead home."""
    edges = {
        name: sorted({t for t in targets_of(service) if t in document.services and (what == "fallback" or t != name)})
        for name, service in sorted(document.services.items())
    }
    done: set[str] = set()
    for start in edges:
        way: list[str] = []
        todo = [iter((start,))]
        while todo:
            name = next(todo[-1], None)
            if name is None:
                todo.pop()
                if way:
                    done.add(way.pop())
            elif name in way:
                circle = way[way.index(name) :]
                at = ("services", circle[-1], what)
                yield at, f"this goes round in a circle: {' -> '.join((*circle, name))}"
            elif name not in done:
                way.append(name)
                todo.append(iter(edges[name]))
