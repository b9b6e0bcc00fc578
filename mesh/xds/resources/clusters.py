"""Clusters: the own application, one per reachable target, one per service with fallbacks, the collector of traces."""

from functools import lru_cache
from typing import Any

from mesh.config.document.models import ServicePolicy
from mesh.config.document.protection import Connections
from mesh.model import Address, SpiffeId
from mesh.xds import names
from mesh.xds.resources.balancing import build_balancing
from mesh.xds.resources.protection import build_breaker, build_health_checks, build_outlier
from mesh.xds.resources.resource import Resource, any_of, build_resource
from mesh.xds.resources.timing import REPORTED_METRICS, UPSTREAM_FILTERS, is_timed
from mesh.xds.resources.tls import build_upstream_tls
from mesh.xds.resources.values import seconds

_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_DEFAULT = ServicePolicy()


def _http(
    explicit: dict[str, Any], common: dict[str, Any] | None = None, filters: tuple[dict[str, Any], ...] = ()
) -> dict[str, Any]:
    literal = {
        "explicit_http_config": explicit,
        **({"common_http_protocol_options": common} if common else {}),
        **({"http_filters": list(filters)} if filters else {}),
    }
    return {_HTTP_OPTIONS: any_of("extensions.upstreams.http.v3.HttpProtocolOptions", literal)}


def _http2_of(connections: Connections, filters: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """Between sidecars it is always HTTP/2, whatever the applications speak."""
    keepalive = {
        "interval": seconds(connections.keepalive_interval),
        "timeout": seconds(connections.keepalive_timeout),
    }
    common: dict[str, Any] = {}
    if connections.idle_timeout != _DEFAULT.connections.idle_timeout:
        common["idle_timeout"] = seconds(connections.idle_timeout)
    if connections.max_requests_per_connection is not None:
        common["max_requests_per_connection"] = connections.max_requests_per_connection
    return _http({"http2_protocol_options": {"connection_keepalive": keepalive}}, common, filters)


@lru_cache(maxsize=4096)
def build_app_cluster(app_socket: str, protocol: str = "grpc") -> Resource:
    """The application behind a sidecar, on its unix socket; `protocol` is what it speaks."""
    return build_local_cluster(names.APP_CLUSTER, app_socket, is_http2=protocol != "http1")


@lru_cache(maxsize=4096)
def build_local_cluster(name: str, socket: str, *, is_http2: bool) -> Resource:
    """A part of the own application, on a unix socket of its own."""
    endpoint = {"endpoint": {"address": {"pipe": {"path": socket}}}}
    literal = {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": _http(
            {"http2_protocol_options": {}} if is_http2 else {"http_protocol_options": {}}
        ),
        # The application bounds its own concurrency and says so; the sidecar must not refuse before it.
        "circuit_breakers": {
            "thresholds": [{"max_connections": 1024, "max_pending_requests": 4096, "max_requests": 16384}]
        },
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    return build_resource(names.CLUSTER, name, literal)


@lru_cache(maxsize=65536)
def build_upstream_cluster(
    cluster: str, expected: SpiffeId, secrets_dir: str, policy: ServicePolicy = _DEFAULT
) -> Resource:
    """A service or a subset of it: endpoints by EDS, mutual TLS with exactly its identity, and its protections.

    Answers of subsets are timed, so that one can be judged against another.
    """
    timed = is_timed(cluster)
    literal = {
        "name": cluster,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}},
        "connect_timeout": seconds(policy.connections.connect_timeout),
        **build_balancing(policy.load_balancing),
        "transport_socket": build_upstream_tls(secrets_dir, expected),
        "typed_extension_protocol_options": _http2_of(policy.connections, UPSTREAM_FILTERS if timed else ()),
        **({"lrs_report_endpoint_metrics": list(REPORTED_METRICS)} if timed else {}),
        "circuit_breakers": build_breaker(policy.circuit_breaker),
        **build_outlier(policy.outlier_detection),
        **build_health_checks(policy.health_check, names.authority_of(expected.service)),
        # With one endpoint left, trying it is better than refusing everything.
        "common_lb_config": {"healthy_panic_threshold": {"value": 10.0}},
    }
    return build_resource(names.CLUSTER, cluster, literal)


@lru_cache(maxsize=65536)
def build_fallback_cluster(service: str, clusters: tuple[str, ...]) -> Resource:
    """The clusters in their order: requests go on to the next where the one before has no healthy instance left.

    Envoy shifts load gradually: below 72 % healthy instances of the first the next gets a share already. Instances that
    the registry knows to be unhealthy do not count, as they are no endpoints.
    """
    name = names.fallback_cluster_of(service)
    literal = {
        "name": name,
        "connect_timeout": "1s",
        "lb_policy": "CLUSTER_PROVIDED",
        "cluster_type": {
            "name": "envoy.clusters.aggregate",
            "typed_config": any_of("extensions.clusters.aggregate.v3.ClusterConfig", {"clusters": list(clusters)}),
        },
    }
    return build_resource(names.CLUSTER, name, literal)


@lru_cache(maxsize=64)
def build_collector_cluster(collector: str) -> Resource:
    """Where traces go, HOST:PORT, by OTLP over gRPC. Raises InvalidInput for what is no address."""
    address = Address.parse(collector, field="mesh.telemetry.collector")
    socket = {"socket_address": {"address": address.host, "port_value": address.port}}
    literal = {
        "name": names.COLLECTOR_CLUSTER,
        "type": "STRICT_DNS",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": _http({"http2_protocol_options": {}}),
        "load_assignment": {
            "cluster_name": names.COLLECTOR_CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket}}]}],
        },
    }
    return build_resource(names.CLUSTER, names.COLLECTOR_CLUSTER, literal)
