"""From the state of the mesh to the snapshot of each proxy, at the cost of what has changed.

    MeshState ──track──> Outline of a proxy    built anew when something changes that it was built from
        └──instances──> EndpointSet            shared by proxies with the same targets and zone
                            └── both ──> Snapshot

`advance` takes in a state and finds out by two indexes who is concerned: those who have read a fact that differs, and
those who have endpoints of a service whose instances differ. Nobody else is looked at.
"""

from dataclasses import dataclass, field

from mesh.config.document import Policy
from mesh.model import ProxySpec
from mesh.state import Fact, MeshState, changes_between, track
from mesh.xds import names
from mesh.xds.blueprint import Blueprint
from mesh.xds.endpoint_sets import EndpointSet, EndpointSets
from mesh.xds.names import cluster_of
from mesh.xds.outline import Outline, build_client, build_sidecar
from mesh.xds.snapshot import EMPTY, Snapshot, build_snapshot, changed_names

_BLUEPRINTS = 3
"""Policies whose meaning is kept: the one in force, and two that are looked at in turn."""

_SERVICES = "services"
"""The field of the state that holds instances."""


@dataclass(frozen=True, slots=True)
class ClientSpec:
    """What gRPC's own xDS client is: all clients of one service and zone have the same."""

    service: str
    zone: str = ""


Spec = ProxySpec | ClientSpec


@dataclass(slots=True, eq=False)
class _Known:
    """What is remembered of a proxy between states. `facts` are those that its outline was built from."""

    spec: Spec
    snapshot: Snapshot = EMPTY
    facts: set[Fact] = field(default_factory=set)
    endpoints: EndpointSet | None = None
    is_stale: bool = True


class Reconciler:
    """Builds snapshots and remembers what they were built from. States must be given in their order."""

    def __init__(self) -> None:
        self._state: MeshState | None = None
        self._known: dict[Spec, _Known] = {}
        self._readers: dict[Fact, set[_Known]] = {}
        self._endpoints: EndpointSets[_Known] = EndpointSets()
        self._affected: dict[Spec, None] = {}
        self._blueprints: list[Blueprint] = []

    def sidecar_snapshot(self, state: MeshState, spec: ProxySpec) -> Snapshot:
        """What an Envoy gets. Raises PermissionDenied or InvalidInput when it asks for an edge that it cannot have."""
        return self.snapshot(state, spec)

    def client_snapshot(self, state: MeshState, service: str, *, zone: str = "") -> Snapshot:
        """What gRPC's own xDS client gets: its declared upstreams, as xds:///NAME and xds:///NAME.mesh."""
        return self.snapshot(state, ClientSpec(service, zone))

    def snapshot(self, state: MeshState, spec: Spec) -> Snapshot:
        """What a client of either kind gets; the same object as long as nothing changes. Raises as its builder does."""
        self.advance(state)
        known = self._known.get(spec)
        if known is None:
            known = self._known[spec] = _Known(spec)
        if known.is_stale:
            self._rebuild(known, state)
        elif known.endpoints is not None:
            self._renew(known, known.endpoints, state)
        return known.snapshot

    def preview(self, state: MeshState, spec: Spec) -> Snapshot:
        """What a client would get by a state that is not to be taken in; nothing is remembered of it."""
        outline = self._build_outline(state, spec)
        built = (
            self._endpoints.build(state, target, spec.zone, is_envoy=isinstance(spec, ProxySpec))
            for target in outline.targets
        )
        clusters = frozenset(map(cluster_of, outline.targets))
        return build_snapshot(*outline.resources, *built, endpoint_clusters=clusters)

    def forget(self, spec: Spec) -> None:
        """The last proxy of this kind has gone."""
        known = self._known.pop(spec, None)
        if known is not None:
            self._note_read(known, set())
            self._endpoints.release(known)
            self._affected.pop(spec, None)

    def advance(self, state: MeshState) -> None:
        """Take in a state; whom it concerns is given by `next_affected`."""
        before, self._state = self._state, state
        if before is None or before is state:
            return
        facts = changes_between(before, state)
        if facts is None:
            for known in self._known.values():
                self._mark_stale(known)
            facts = {(_SERVICES, name) for name in self._endpoints.services}
        for fact in facts:
            for known in self._readers.get(fact, ()):
                self._mark_stale(known)
            if fact[0] == _SERVICES:
                for known in self._endpoints.note_changed(fact[1]):
                    self._affected[known.spec] = None

    def next_affected(self) -> Spec | None:
        """One whose snapshot is another now, each once; None when there is none left."""
        return self._affected.popitem()[0] if self._affected else None

    def _mark_stale(self, known: _Known) -> None:
        known.is_stale = True
        self._affected[known.spec] = None

    def _rebuild(self, known: _Known, state: MeshState) -> None:
        tracked, facts = track(state)
        spec = known.spec
        try:
            outline = self._build_outline(tracked, spec)
        finally:
            # Also when it fails: it is to be tried again when something changes that it has failed for.
            self._note_read(known, facts)
        is_envoy = isinstance(spec, ProxySpec)
        known.endpoints = self._endpoints.use(known, outline.targets, spec.zone, is_envoy=is_envoy)
        self._endpoints.refresh(known.endpoints, state)
        known.snapshot = build_snapshot(
            *outline.resources,
            endpoints=known.endpoints.current,
            endpoint_clusters=frozenset(map(cluster_of, outline.targets)),
            known=known.snapshot,
        )
        known.is_stale = False

    def _renew(self, known: _Known, endpoints: EndpointSet, state: MeshState) -> None:
        self._endpoints.refresh(endpoints, state)
        has = known.snapshot.of(names.ENDPOINT)
        if has is not endpoints.current:
            changed = endpoints.changed if has is endpoints.before else changed_names(has, endpoints.current)
            known.snapshot = known.snapshot.with_endpoints(endpoints.current, changed)

    def _note_read(self, known: _Known, facts: set[Fact]) -> None:
        for fact in known.facts - facts:
            readers = self._readers[fact]
            readers.discard(known)
            if not readers:
                del self._readers[fact]
        for fact in facts - known.facts:
            self._readers.setdefault(fact, set()).add(known)
        known.facts = facts

    def _build_outline(self, state: MeshState, spec: Spec) -> Outline:
        plan = self._blueprint_of(state.policy)
        if isinstance(spec, ProxySpec):
            return build_sidecar(state, spec, plan)
        return build_client(state, spec.service, plan)

    def _blueprint_of(self, policy: Policy) -> Blueprint:
        found = next((it for it in self._blueprints if it.policy is policy), None) or Blueprint(policy)
        self._blueprints = [found, *(it for it in self._blueprints if it is not found)][:_BLUEPRINTS]
        return found
