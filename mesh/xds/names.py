"""The names that control plane and proxies share: type URLs, fixed resource names, and their order.

Order: make before break. Clusters come before the endpoints in them, both before the listeners and routes that use
them.
"""

_PREFIX = "type.googleapis.com/"

CLUSTER = f"{_PREFIX}envoy.config.cluster.v3.Cluster"
ENDPOINT = f"{_PREFIX}envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER = f"{_PREFIX}envoy.config.listener.v3.Listener"
ROUTE = f"{_PREFIX}envoy.config.route.v3.RouteConfiguration"

PUSH_ORDER = (CLUSTER, ENDPOINT, LISTENER, ROUTE)
"""The order in which changes of one moment are sent on a stream."""

SHORT_NAMES = {LISTENER: "listener", ROUTE: "route", CLUSTER: "cluster", ENDPOINT: "endpoint"}
"""What people call the types, in the order in which they are shown."""

WILDCARD_TYPES = frozenset({LISTENER, CLUSTER})
"""Types that a client may ask for without names."""

APP_CLUSTER = "@app"
"""The own application's cluster; no service can have that name."""
INBOUND = "inbound"
OUTBOUND = "outbound"
EXPOSED_HEALTH = "exposed-health"
EDGE = "edge"


def authority_of(service: str) -> str:
    """The authority by which a service is called inside of the mesh."""
    return f"{service}.mesh"
