"""What one proxy should have, but for the endpoints: of these it says only which services they are of.

A blueprint follows from the state and from what the proxy is, and is built anew only when something changes that its
builder has read of the state. Instances are none of that: they come and go all the time, and go into endpoints only.
"""

from dataclasses import dataclass

from mesh.errors import InvalidInput, PermissionDenied
from mesh.model import ProxySpec
from mesh.state import MeshState
from mesh.xds.names import authority_of
from mesh.xds.resources import Resource
from mesh.xds.resources.clusters import build_app_cluster, build_upstream_cluster
from mesh.xds.resources.grpc_client import build_api_listener, build_client_cluster, build_client_routes
from mesh.xds.resources.listeners import build_edge, build_exposed_health, build_inbound, build_outbound
from mesh.xds.resources.routes import build_edge_routes, build_outbound_routes

GATEWAY = "gateway"
"""The kind of service that may have an edge."""

ClusterOf = tuple[str, str]
"""A cluster that needs endpoints, and the service that these are of."""


@dataclass(frozen=True, slots=True)
class Blueprint:
    """All resources of a proxy but endpoints, and the clusters that need these."""

    resources: tuple[Resource, ...]
    clusters: tuple[ClusterOf, ...]


def build_sidecar(state: MeshState, spec: ProxySpec) -> Blueprint:
    """For an Envoy. Raises PermissionDenied or InvalidInput when it asks for an edge that it cannot have."""
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
        _check_gateway(state, spec)
        resources += [build_edge(spec), build_edge_routes(upstreams)]
    resources += (build_upstream_cluster(name, state.spiffe_id(name), spec.secrets_dir) for name in upstreams)
    return Blueprint(tuple(resources), tuple((name, name) for name in upstreams))


def build_client(state: MeshState, service: str) -> Blueprint:
    """For gRPC's own xDS client: its declared upstreams, as xds:///NAME and xds:///NAME.mesh."""
    upstreams = state.upstreams_of(service)
    resources = [
        resource
        for name in upstreams
        for resource in (
            build_api_listener(name, name),
            build_api_listener(authority_of(name), name),
            build_client_routes(name),
            build_client_cluster(name, state.spiffe_id(name)),
        )
    ]
    return Blueprint(tuple(resources), tuple((name, name) for name in upstreams))


def _check_gateway(state: MeshState, spec: ProxySpec) -> None:
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
