"""What gRPC's own xDS client takes: fewer features than Envoy's, certificates by the client's own provider.

Left out, because the client does not know it: mirrors, rewrites, header edits, hedging, timeouts per try, idle
timeouts, faults for some headers only, active health checks, retry conditions other than gRPC's, and every load
balancing but round robin and ring hash (which stands for maglev, too). Routes on an authority or on an HTTP method
other than POST match no call of this client.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from mesh.config.document import Retry, Route
from mesh.config.document.models import ServicePolicy
from mesh.config.document.protection import CircuitBreaker, LoadBalancing, OutlierDetection
from mesh.model import SpiffeId
from mesh.xds import names
from mesh.xds.resources.actions import shares_of
from mesh.xds.resources.faults import FAULT_FILTER, build_fault, is_meant
from mesh.xds.resources.host import Host
from mesh.xds.resources.matches import build_path
from mesh.xds.resources.resource import Resource, any_of, build_resource
from mesh.xds.resources.values import header_matcher, seconds

CERTIFICATE_PROVIDER = "default"
"""The instance name in the client's bootstrap under which its certificate files are."""

_GRPC_CONDITIONS = ("cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable")
_DEFAULT = ServicePolicy()
_WHOLE = Route(name="default")


@lru_cache(maxsize=65536)
def build_api_listener(target: str, service: str, *, has_faults: bool = False) -> Resource:
    """The listener for target xds:///`target`."""
    rds = {"route_config_name": service, "config_source": {"ads": {}, "resource_api_version": "V3"}}
    router = {"name": "router", "typed_config": any_of("extensions.filters.http.router.v3.Router")}
    filters = [*([FAULT_FILTER] if has_faults else ()), router]
    manager = any_of(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        {"stat_prefix": "client", "rds": rds, "http_filters": filters},
    )
    return build_resource(names.LISTENER, target, {"name": target, "api_listener": {"api_listener": manager}})


@lru_cache(maxsize=65536)
def build_client_routes(host: Host) -> Resource:
    """The routes of one service, as far as the client can follow them."""
    known = (route for route in host.policy.routes if _is_possible(route))
    routes = [*(_route(host, route, _match(route)) for route in known), _route(host, _WHOLE, {"prefix": ""})]
    hosts = [{"name": host.service, "domains": ["*"], "routes": routes}]
    return build_resource(names.ROUTE, host.service, {"name": host.service, "virtual_hosts": hosts})


def has_faults(host: Host) -> bool:
    """True when some call of the service is to fail or to wait on purpose, so that the listener needs the filter."""
    return any(_fault(host, route) for route in (*host.policy.routes, _WHOLE))


def _is_possible(route: Route) -> bool:
    return route.match.authority is None and route.match.http_method in (None, "POST")


def _match(route: Route) -> dict[str, Any]:
    headers = [header_matcher(name, match) for name, match in sorted(route.match.headers.items())]
    return build_path(route.match) | ({"headers": headers} if headers else {})


def _route(host: Host, route: Route, match: dict[str, Any]) -> dict[str, Any]:
    shares = shares_of(host, route)
    clusters = [{"name": host.place(target).cluster, "weight": weight} for target, weight in shares.items()]
    timeout = route.timeout if route.timeout is not None else host.policy.timeout
    retry = route.retry if route.retry is not None else host.policy.retry
    hashes = [{"header": {"header_name": name}, "terminal": True} for name in _hash_headers(host, shares)]
    action = {
        **({"cluster": clusters[0]["name"]} if len(clusters) == 1 else {"weighted_clusters": {"clusters": clusters}}),
        "max_stream_duration": {"max_stream_duration": seconds(timeout)} if timeout else {},
        **_retry(retry),
        **({"hash_policy": hashes} if hashes else {}),
    }
    return {"match": match, "route": action, **_fault(host, route)}


def _fault(host: Host, route: Route) -> dict[str, Any]:
    fault = route.fault if route.fault is not None else host.policy.fault
    if fault is None or fault.headers or not is_meant(fault, host.caller):
        return {}
    return {"typed_per_filter_config": build_fault(fault)}


def _retry(retry: Retry) -> dict[str, Any]:
    """What never left the client it retries by itself."""
    conditions = [condition for condition in retry.on if condition in _GRPC_CONDITIONS]
    if not conditions or not retry.attempts:
        return {}
    backoff = {"base_interval": seconds(retry.backoff), "max_interval": seconds(retry.max_backoff)}
    policy = {"retry_on": ",".join(conditions), "num_retries": retry.attempts, "retry_back_off": backoff}
    return {"retry_policy": policy}


def _hash_headers(host: Host, shares: dict[str, int]) -> Iterator[str]:
    keys = dict.fromkeys(key for target in shares for key in host.place(target).hash_on)
    return (key.removeprefix("header:") for key in keys if key.startswith("header:"))


@lru_cache(maxsize=65536)
def build_client_cluster(cluster: str, expected: SpiffeId, policy: ServicePolicy = _DEFAULT) -> Resource:
    """A service or a subset of it, with mutual TLS and those protections that the client has."""
    provider = {"instance_name": CERTIFICATE_PROVIDER}
    context = {
        "common_tls_context": {
            "tls_certificate_provider_instance": provider,
            "validation_context": {
                "ca_certificate_provider_instance": provider,
                "match_subject_alt_names": [{"exact": str(expected)}],
            },
        }
    }
    tls = any_of("extensions.transport_sockets.tls.v3.UpstreamTlsContext", context)
    literal = {
        "name": cluster,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}},
        **_balancing(policy.load_balancing),
        **_breaker(policy.circuit_breaker),
        **_outlier(policy.outlier_detection),
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
    }
    return build_resource(names.CLUSTER, cluster, literal)


@lru_cache(maxsize=65536)
def build_client_fallback(service: str, clusters: tuple[str, ...]) -> Resource:
    """The clusters in their order, each while the one before has no instance; gRFC A37."""
    name = names.fallback_cluster_of(service)
    kind = any_of("extensions.clusters.aggregate.v3.ClusterConfig", {"clusters": list(clusters)})
    literal = {
        "name": name,
        "cluster_type": {"name": "envoy.clusters.aggregate", "typed_config": kind},
        "lb_policy": "ROUND_ROBIN",
    }
    return build_resource(names.CLUSTER, name, literal)


def _balancing(balancing: LoadBalancing) -> dict[str, Any]:
    """Round robin is the one policy that gRPC and Envoy share; a hash needs its ring."""
    if balancing.policy not in ("ring_hash", "maglev"):
        return {"lb_policy": "ROUND_ROBIN"}
    return {
        "lb_policy": "RING_HASH",
        "ring_hash_lb_config": {
            "minimum_ring_size": balancing.min_ring_size,
            "maximum_ring_size": balancing.max_ring_size,
        },
    }


def _breaker(breaker: CircuitBreaker) -> dict[str, Any]:
    if breaker.max_requests == _DEFAULT.circuit_breaker.max_requests:
        return {}
    return {"circuit_breakers": {"thresholds": [{"max_requests": breaker.max_requests}]}}


def _outlier(outlier: OutlierDetection) -> dict[str, Any]:
    """The client judges by shares of failures only."""
    if not outlier.enabled or outlier.failure_percentage is None:
        return {}
    literal = {
        "interval": seconds(outlier.interval),
        "base_ejection_time": seconds(outlier.base_ejection_time),
        "max_ejection_time": seconds(max(outlier.max_ejection_time, outlier.base_ejection_time)),
        "max_ejection_percent": outlier.max_ejection_percent,
        "enforcing_success_rate": 0,
        "failure_percentage_threshold": outlier.failure_percentage,
        "failure_percentage_request_volume": 20,
        "failure_percentage_minimum_hosts": 1,
        "enforcing_failure_percentage": 100,
    }
    return {"outlier_detection": literal}
