"""Clusters: the own application, and one per upstream service."""

from functools import lru_cache
from typing import Any

from mesh.model import SpiffeId
from mesh.xds import names
from mesh.xds.resources.resource import Resource, any_of, build_resource
from mesh.xds.resources.tls import build_upstream_tls

_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def _http2(*, keepalive: bool) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if keepalive:
        options["connection_keepalive"] = {"interval": "10s", "timeout": "5s"}
    literal = {"explicit_http_config": {"http2_protocol_options": options}}
    return {_HTTP_OPTIONS: any_of("extensions.upstreams.http.v3.HttpProtocolOptions", literal)}


@lru_cache(maxsize=4096)
def build_app_cluster(app_socket: str) -> Resource:
    """The application behind a sidecar, on its unix socket."""
    endpoint = {"endpoint": {"address": {"pipe": {"path": app_socket}}}}
    literal = {
        "name": names.APP_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": _http2(keepalive=False),
        # The application bounds its own concurrency and says so; the sidecar must not refuse before it.
        "circuit_breakers": {
            "thresholds": [{"max_connections": 1024, "max_pending_requests": 4096, "max_requests": 16384}]
        },
        "load_assignment": {"cluster_name": names.APP_CLUSTER, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    return build_resource(names.CLUSTER, names.APP_CLUSTER, literal)


@lru_cache(maxsize=65536)
def build_upstream_cluster(service: str, expected: SpiffeId, secrets_dir: str) -> Resource:
    """An upstream service: endpoints by EDS, mutual TLS with exactly its identity, and the default protections."""
    literal = {
        "name": service,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}},
        "connect_timeout": "1s",
        "lb_policy": "LEAST_REQUEST",
        "transport_socket": build_upstream_tls(secrets_dir, expected),
        "typed_extension_protocol_options": _http2(keepalive=True),
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": 1024,
                    "max_pending_requests": 1024,
                    "max_requests": 4096,
                    "retry_budget": {"budget_percent": {"value": 20.0}, "min_retry_concurrency": 3},
                }
            ]
        },
        # Answers of gRPC status UNAVAILABLE and its kin count as gateway failures.
        "outlier_detection": {
            "interval": "1s",
            "base_ejection_time": "3s",
            "max_ejection_time": "30s",
            "max_ejection_percent": 60,
            "consecutive_gateway_failure": 5,
            "enforcing_consecutive_gateway_failure": 100,
            "enforcing_consecutive_5xx": 0,
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 3,
            "enforcing_success_rate": 0,
            "enforcing_local_origin_success_rate": 0,
        },
        # With one endpoint left, trying it is better than refusing everything.
        "common_lb_config": {"healthy_panic_threshold": {"value": 10.0}},
    }
    return build_resource(names.CLUSTER, service, literal)
