"""From the state of the mesh to the snapshot of each proxy.

Endpoints are built once per service and shared by all proxies that call it; clusters and routes are shared by what they
are built from. A change of one service's instances rebuilds one resource.
"""

from mesh.errors import InvalidInput, PermissionDenied
from mesh.model import Instance, ProxySpec
from mesh.state import MeshState
from mesh.xds.names import authority_of
from mesh.xds.resources import Resource
from mesh.xds.resources.clusters import build_app_cluster, build_upstream_cluster
from mesh.xds.resources.endpoints import build_endpoints
from mesh.xds.resources.grpc_client import build_api_listener, build_client_cluster, build_client_routes
from mesh.xds.resources.listeners import build_edge, build_exposed_health, build_inbound, build_outbound
from mesh.xds.resources.routes import build_edge_routes, build_outbound_routes
from mesh.xds.snapshot import Snapshot, build_snapshot

GATEWAY = "gateway"
"""The kind of service that may have an edge."""


class Reconciler:
    """Builds snapshots; remembers endpoints between states."""

    def __init__(self) -> None:
        self._endpoints: dict[str, tuple[tuple[Instance, ...], Resource]] = {}

    def sidecar_snapshot(self, state: MeshState, spec: ProxySpec) -> Snapshot:
        """What an Envoy gets. Raises PermissionDenied or InvalidInput when it asks for an edge that it cannot have."""
        identity = state.spiffe_id(spec.service)
        upstreams = state.upstreams_of(spec.service)
        resources = [build_outbound(spec), build_outbound_routes(spec.service, upstreams)]
        if spec.app_socket:
            resources.append(build_app_cluster(spec.app_socket))
            if spec.inbound is not None:
                resources.append(build_inbound(spec, identity))
            if spec.exposed_health is not None:
                resources.append(build_exposed_health(spec))
        if spec.edge is not None:
            self._check_gateway(state, spec)
            resources += [build_edge(spec), build_edge_routes(upstreams)]
        self._forget_unknown(state)
        for name in upstreams:
            resources.append(build_upstream_cluster(name, state.spiffe_id(name), spec.secrets_dir))
            resources.append(self._endpoints_of(state, name))
        return build_snapshot(*resources, endpoint_clusters=frozenset(upstreams))

    def client_snapshot(self, state: MeshState, service: str) -> Snapshot:
        """What gRPC's own xDS client gets: its declared upstreams, as xds:///NAME and xds:///NAME.mesh."""
        upstreams = state.upstreams_of(service)
        self._forget_unknown(state)
        resources = [
            resource
            for name in upstreams
            for resource in (
                build_api_listener(name, name),
                build_api_listener(authority_of(name), name),
                build_client_routes(name),
                build_client_cluster(name, state.spiffe_id(name)),
                self._endpoints_of(state, name),
            )
        ]
        return build_snapshot(*resources, endpoint_clusters=frozenset(upstreams))

    def _endpoints_of(self, state: MeshState, service: str) -> Resource:
        instances = state.services.get(service, ())
        known = self._endpoints.get(service)
        if known is None or known[0] != instances:
            known = self._endpoints[service] = (instances, build_endpoints(service, instances))
        return known[1]

    def _forget_unknown(self, state: MeshState) -> None:
        """Names come and go; what is remembered must not grow for ever."""
        if len(self._endpoints) > 2 * len(state.names) + 16:
            names = set(state.names)
            self._endpoints = {name: known for name, known in self._endpoints.items() if name in names}

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
