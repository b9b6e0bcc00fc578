"""From the state of the mesh to the snapshot of each proxy.

Endpoints are built once per target and shared by all proxies that call it; clusters and routes are shared by what they
are built from. A change of one service's instances rebuilds one resource.
"""

from collections.abc import Iterator

from mesh.config.document import split_target
from mesh.errors import InvalidInput, PermissionDenied
from mesh.model import Instance, ProxySpec
from mesh.state import MeshState
from mesh.xds.blueprint import Blueprint, select
from mesh.xds.names import authority_of, cluster_of
from mesh.xds.resources import Resource
from mesh.xds.resources.clusters import (
    build_app_cluster,
    build_collector_cluster,
    build_fallback_cluster,
    build_upstream_cluster,
)
from mesh.xds.resources.endpoints import build_endpoints
from mesh.xds.resources.grpc_client import (
    build_api_listener,
    build_client_cluster,
    build_client_fallback,
    build_client_routes,
    has_faults,
)
from mesh.xds.resources.inbound import build_inbound_routes
from mesh.xds.resources.limits import build_adaptive_concurrency, build_connection_limit
from mesh.xds.resources.listeners import build_edge, build_exposed_health, build_inbound, build_outbound
from mesh.xds.snapshot import Snapshot, build_snapshot

GATEWAY = "gateway"
"""The kind of service that may have an edge."""


class Reconciler:
    """Builds snapshots; remembers endpoints between states, and what the mesh document means while it is the same."""

    def __init__(self) -> None:
        self._endpoints: dict[str, tuple[tuple[Instance, ...], Resource]] = {}
        self._blueprint: Blueprint | None = None

    def sidecar_snapshot(self, state: MeshState, spec: ProxySpec) -> Snapshot:
        """What an Envoy gets. Raises PermissionDenied or InvalidInput when it asks for an edge that it cannot have."""
        plan = self._plan(state)
        upstreams = state.upstreams_of(spec.service)
        is_traced = plan.collector is not None
        resources = [
            build_outbound(spec, is_traced=is_traced),
            plan.outbound_routes(spec.service, upstreams),
            *self._inbound(state, spec, is_traced=is_traced),
        ]
        if spec.edge is not None:
            self._check_gateway(state, spec)
            resources += [build_edge(spec, is_traced=is_traced), plan.edge_routes(spec.service, upstreams)]
        if plan.collector is not None:
            resources.append(build_collector_cluster(plan.collector))
        targets = plan.targets(upstreams)
        self._forget_unknown(state)
        for target in targets:
            service, _ = split_target(target)
            identity, policy = state.spiffe_id(service), plan.policy.of(service)
            resources.append(build_upstream_cluster(cluster_of(target), identity, spec.secrets_dir, policy))
            resources.append(self._endpoints_of(state, target))
            if fallbacks := plan.fallbacks(target):
                clusters = tuple(cluster_of(it) for it in (target, *fallbacks))
                resources.append(build_fallback_cluster(service, clusters))
        return build_snapshot(*resources, endpoint_clusters=frozenset(map(cluster_of, targets)))

    def _inbound(self, state: MeshState, spec: ProxySpec, *, is_traced: bool) -> Iterator[Resource]:
        """What leads to the application behind a sidecar."""
        if not spec.app_socket:
            return
        plan, identity = self._plan(state), state.spiffe_id(spec.service)
        policy = plan.policy.of(spec.service)
        yield build_app_cluster(spec.app_socket, policy.protocol)
        if spec.inbound is not None:
            yield build_inbound(spec, identity, is_traced=is_traced)
            yield build_inbound_routes(plan.inbound_rules(identity, state.revoked))
            yield build_adaptive_concurrency(policy.concurrency.adaptive)
            yield build_connection_limit(policy.connections.max_inbound)
        if spec.exposed_health is not None:
            yield build_exposed_health(spec)

    def client_snapshot(self, state: MeshState, service: str) -> Snapshot:
        """What gRPC's own xDS client gets: its declared upstreams, as xds:///NAME and xds:///NAME.mesh."""
        plan = self._plan(state)
        upstreams = state.upstreams_of(service)
        targets = plan.targets(upstreams)
        self._forget_unknown(state)
        resources: list[Resource] = []
        for name in upstreams:
            host = plan.host(name, service)
            listeners = dict.fromkeys((name, authority_of(name), *host.policy.authorities))
            resources += [build_api_listener(it, name, has_faults=has_faults(host)) for it in listeners]
            resources.append(build_client_routes(host))
        for target in targets:
            name, _ = split_target(target)
            policy = plan.policy.of(name)
            resources.append(build_client_cluster(cluster_of(target), state.spiffe_id(name), policy))
            resources.append(self._endpoints_of(state, target))
            if fallbacks := plan.fallbacks(target):
                clusters = tuple(cluster_of(it) for it in (target, *fallbacks))
                resources.append(build_client_fallback(name, clusters))
        return build_snapshot(*resources, endpoint_clusters=frozenset(map(cluster_of, targets)))

    def _plan(self, state: MeshState) -> Blueprint:
        if self._blueprint is None or self._blueprint.policy is not state.policy:
            self._blueprint = Blueprint(state.policy)
        return self._blueprint

    def _endpoints_of(self, state: MeshState, target: str) -> Resource:
        service, _ = split_target(target)
        instances = select(state.policy.of(service), target, state.services.get(service, ()))
        known = self._endpoints.get(target)
        if known is None or known[0] != instances:
            known = self._endpoints[target] = (instances, build_endpoints(cluster_of(target), instances))
        return known[1]

    def _forget_unknown(self, state: MeshState) -> None:
        """Names come and go; what is remembered must not grow for ever."""
        if len(self._endpoints) > 2 * len(state.names) + 16:
            names = set(state.names)
            self._endpoints = {it: known for it, known in self._endpoints.items() if split_target(it)[0] in names}

    def _check_gateway(self, state: MeshState, spec: ProxySpec) -> None:
        declaration = state.declarations.get(spec.service)
        if declaration is None or declaration.kind != GATEWAY:
            raise PermissionDenied(
                f"{spec.service} is no gateway and gets no edge.",
                reason="NOT_A_GATEWAY",
                field="node.metadata.edge",
                fix="Declare the service with kind gateway.",
            )
        if not spec.app_socket:
            raise InvalidInput(
                f"The edge of {spec.service} has no application behind it.",
                field="node.metadata.app_socket",
                fix="Start the gateway with its application.",
            )
