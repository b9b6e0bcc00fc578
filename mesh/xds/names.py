"""The names that control plane and proxies share: type URLs, fixed resource names, and their order.

Order: make before break. Clusters come before the endpoints in them, both before the listeners and routes that use
them.
"""

from mesh.config.document import MeshDocument

_PREFIX = "type.googleapis.com/"

CLUSTER = f"{_PREFIX}envoy.config.cluster.v3.Cluster"
ENDPOINT = f"{_PREFIX}envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER = f"{_PREFIX}envoy.config.listener.v3.Listener"
ROUTE = f"{_PREFIX}envoy.config.route.v3.RouteConfiguration"
EXTENSION = f"{_PREFIX}envoy.config.core.v3.TypedExtensionConfig"

PUSH_ORDER = (CLUSTER, ENDPOINT, LISTENER, ROUTE, EXTENSION)
"""The order in which changes of one moment are sent on a stream."""

SHORT_NAMES = {
    LISTENER: "listener",
    ROUTE: "route",
    CLUSTER: "cluster",
    ENDPOINT: "endpoint",
    EXTENSION: "extension",
}
"""What people call the types, in the order in which they are shown."""

WILDCARD_TYPES = frozenset({LISTENER, CLUSTER})
"""Types that a client may ask for without names."""

APP_CLUSTER = "@app"
"""The own application's cluster; no service can have that name."""
COLLECTOR_CLUSTER = "@collector"
"""Where sidecars send their traces."""
GUARD_CLUSTER = "@guard"
"""Where a gateway's application decides about calls from outside."""
WEB_CLUSTER = "@web"
"""Where a gateway's application speaks HTTP."""
CONTROL_CLUSTER = "control-plane"
"""The control plane; it stands in the bootstrap of each sidecar."""
INBOUND = "inbound"
OUTBOUND = "outbound"
EXPOSED_HEALTH = "exposed-health"
EDGE = "edge"
EDGE_TLS = "edge-tls"

# Filters by the names under which routes and extension configurations speak to them.
DENY_FILTER = "deny"
ALLOW_FILTER = "allow"
LIMIT_FILTER = "limit"
ROUTE_LIMIT_FILTER = "route-limit"
FAULT_FILTER = "fault"
ADAPTIVE_CONCURRENCY = "adaptive-concurrency"
CONNECTION_LIMIT = "connection-limit"
EDGE_CONNECTION_LIMIT = "edge-connection-limit"
HEADERS = "headers"
COMPRESSION = "compression"
TOKENS = "tokens"
CLIENT_LIMITS = "client-limits"
SHARED_LIMITS = "shared-limits"
CORS_FILTER = "cors"

ROUTE_FACTS = "mesh"
"""The metadata of routes at the edge that say which service they lead to, under the key "service"."""


def authority_of(service: str) -> str:
    """The authority by which a service is called inside of the mesh."""
    return f"{service}.mesh"


def cluster_of(target: str) -> str:
    """The cluster of a target: NAME for a service, SUBSET.NAME for one of its subsets."""
    service, slash, subset = target.partition("/")
    return f"{subset}.{service}" if slash else service


def subset_clusters(document: MeshDocument) -> tuple[str, ...]:
    """The clusters of all subsets of a document."""
    return tuple(
        cluster_of(f"{name}/{subset}")
        for name, service in sorted(document.services.items())
        for subset in sorted(service.subsets)
    )


def issuer_cluster_of(issuer: str) -> str:
    """Where the key set of an external issuer of tokens is fetched."""
    return f"@issuer.{issuer}"


def fallback_cluster_of(service: str) -> str:
    """The cluster that stands for a service and, when it has no healthy instance, for its fallbacks."""
    return f"@fallback.{service}"
