"""What one proxy should have, but for the endpoints: of these it says only which targets they are of.

An outline follows from the state and from what the proxy is, and is built anew only when something changes that its
builder has read of the state. Instances are none of that: they come and go all the time, and go into endpoints only.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from mesh.config.document import split_target
from mesh.errors import InvalidInput, PermissionDenied
from mesh.model import ProxySpec
from mesh.state import MeshState
from mesh.xds import names
from mesh.xds.blueprint import Blueprint, Names
from mesh.xds.names import authority_of, cluster_of
from mesh.xds.resources import Resource
from mesh.xds.resources.clusters import (
    build_app_cluster,
    build_collector_cluster,
    build_fallback_cluster,
    build_local_cluster,
    build_upstream_cluster,
)
from mesh.xds.resources.edge.filters import build_compression, build_headers
from mesh.xds.resources.edge.limits import build_client_limits, build_shared_limits
from mesh.xds.resources.edge.listener import build_edge
from mesh.xds.resources.edge.tokens import build_issuer_cluster, build_tokens
from mesh.xds.resources.grpc_client import (
    build_api_listener,
    build_client_cluster,
    build_client_fallback,
    build_client_routes,
    has_faults,
)
from mesh.xds.resources.inbound import build_inbound_routes
from mesh.xds.resources.limits import build_adaptive_concurrency, build_connection_limit
from mesh.xds.resources.listeners import build_exposed_health, build_inbound, build_outbound

GATEWAY = "gateway"
"""The kind of service that may have an edge."""


@dataclass(frozen=True, slots=True)
class Outline:
    """All resources of a proxy but endpoints, and the targets (SERVICE or SERVICE/SUBSET) that it needs these of."""

    resources: tuple[Resource, ...]
    targets: Names


def build_sidecar(state: MeshState, spec: ProxySpec, plan: Blueprint) -> Outline:
    """For an Envoy. Raises PermissionDenied or InvalidInput when it asks for an edge that it cannot have."""
    upstreams = state.upstreams_of(spec.service)
    is_traced = plan.collector is not None
    resources = [
        build_outbound(spec, is_traced=is_traced),
        plan.outbound_routes(spec.service, upstreams, is_gateway=spec.has_edge),
        *_inbound(state, spec, plan),
        *_edge(state, spec, plan),
    ]
    if plan.collector is not None:
        resources.append(build_collector_cluster(plan.collector))
    targets = plan.targets(upstreams)
    for target in targets:
        service, _ = split_target(target)
        identity, policy = state.spiffe_id(service), plan.policy.of(service)
        resources.append(build_upstream_cluster(cluster_of(target), identity, spec.secrets_dir, policy))
        if fallbacks := plan.fallbacks(target):
            clusters = tuple(cluster_of(it) for it in (target, *fallbacks))
            resources.append(build_fallback_cluster(service, clusters))
    return Outline(tuple(resources), targets)


def build_client(state: MeshState, service: str, plan: Blueprint) -> Outline:
    """For gRPC's own xDS client: its declared upstreams, as xds:///NAME and xds:///NAME.mesh."""
    upstreams = state.upstreams_of(service)
    targets = plan.targets(upstreams)
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
        if fallbacks := plan.fallbacks(target):
            clusters = tuple(cluster_of(it) for it in (target, *fallbacks))
            resources.append(build_client_fallback(name, clusters))
    return Outline(tuple(resources), targets)


def _inbound(state: MeshState, spec: ProxySpec, plan: Blueprint) -> Iterator[Resource]:
    """What leads to the application behind a sidecar."""
    if not spec.app_socket:
        return
    identity, policy = state.spiffe_id(spec.service), plan.policy.of(spec.service)
    yield build_app_cluster(spec.app_socket, policy.protocol)
    if spec.inbound is not None:
        yield build_inbound(spec, identity, is_traced=plan.collector is not None)
        yield build_inbound_routes(plan.inbound_rules(identity, state.revoked))
        yield build_adaptive_concurrency(policy.concurrency.adaptive)
        yield build_connection_limit(policy.connections.max_inbound)
    if spec.exposed_health is not None:
        yield build_exposed_health(spec)


def _edge(state: MeshState, spec: ProxySpec, plan: Blueprint) -> Iterator[Resource]:
    """What takes calls from outside of the mesh, if the proxy has it."""
    if not spec.has_edge:
        return
    _check_gateway(state, spec)
    edge, access, is_traced = plan.policy.document.edge, plan.policy.document.access, plan.collector is not None
    if spec.edge is not None and edge.plaintext:
        yield build_edge(spec, edge, is_tls=False, is_traced=is_traced)
    if spec.edge_tls is not None:
        yield build_edge(spec, edge, is_tls=True, is_traced=is_traced)
    yield plan.edge_routes(spec.service, state.upstreams_of(spec.service))
    yield build_local_cluster(names.GUARD_CLUSTER, spec.guard_socket, is_http2=True)
    yield build_local_cluster(names.WEB_CLUSTER, spec.web_socket, is_http2=False)
    yield build_connection_limit(edge.protection.max_connections, names.EDGE_CONNECTION_LIMIT)
    yield build_headers(edge.security_headers)
    yield build_compression(edge.compression)
    yield build_tokens(state.token_issuer, access.issuers)
    yield build_client_limits(edge.limits)
    yield build_shared_limits(edge.limits)
    for name, issuer in sorted(access.issuers.items()):
        if issuer.jwks_uri is not None:
            yield build_issuer_cluster(name, issuer)


def _check_gateway(state: MeshState, spec: ProxySpec) -> None:
    declaration = state.declarations.get(spec.service)
    if declaration is None or declaration.kind != GATEWAY:
        raise PermissionDenied(
            f"{spec.service} is no gateway and gets no edge.",
            reason="NOT_A_GATEWAY",
            field="node.metadata.edge",
            fix="Declare the service with kind gateway.",
        )
    for field in ("app_socket", "guard_socket", "web_socket"):
        if not getattr(spec, field):
            raise InvalidInput(
                f"The edge of {spec.service} has no application behind it.",
                field=f"node.metadata.{field}",
                fix="Start the gateway with its application.",
            )
