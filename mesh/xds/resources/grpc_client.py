"""What gRPC's own xDS client takes: fewer features than Envoy's, certificates by the client's own provider."""

from functools import lru_cache

from mesh.model import SpiffeId
from mesh.xds import names
from mesh.xds.resources.resource import Resource, any_of, build_resource

CERTIFICATE_PROVIDER = "default"
"""The instance name in the client's bootstrap under which its certificate files are."""


@lru_cache(maxsize=65536)
def build_api_listener(target: str, service: str) -> Resource:
    """The listener for target xds:///`target`."""
    rds = {"route_config_name": service, "config_source": {"ads": {}, "resource_api_version": "V3"}}
    router = {"name": "router", "typed_config": any_of("extensions.filters.http.router.v3.Router")}
    manager = any_of(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        {"stat_prefix": "client", "rds": rds, "http_filters": [router]},
    )
    return build_resource(names.LISTENER, target, {"name": target, "api_listener": {"api_listener": manager}})


@lru_cache(maxsize=65536)
def build_client_routes(service: str) -> Resource:
    """Everything to the service's cluster."""
    route = {"match": {"prefix": ""}, "route": {"cluster": service, "max_stream_duration": {}}}
    hosts = [{"name": service, "domains": ["*"], "routes": [route]}]
    return build_resource(names.ROUTE, service, {"name": service, "virtual_hosts": hosts})


@lru_cache(maxsize=65536)
def build_client_cluster(service: str, expected: SpiffeId) -> Resource:
    """The service's cluster, with the one policy that gRPC and Envoy share, and mutual TLS."""
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
        "name": service,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}},
        "lb_policy": "ROUND_ROBIN",
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
    }
    return build_resource(names.CLUSTER, service, literal)
