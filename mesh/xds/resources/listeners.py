"""Listeners: inbound (mutual TLS), outbound (unix socket), edge, and a health check in the clear where one must be."""

from functools import lru_cache
from typing import Any

from mesh.model import Address, ProxySpec, SpiffeId
from mesh.xds import names
from mesh.xds.resources.resource import Resource, any_of, build_resource
from mesh.xds.resources.routes import NOT_DELIVERED
from mesh.xds.resources.tls import build_downstream_tls

HEALTH_CHECK = "/grpc.health.v1.Health/Check"
REGISTRY_SERVICE = "consul"
"""The identity with which the registry checks health; it may do nothing else."""

# Listeners follow from the proxy alone; without this each change of any service would build them anew for every proxy.
_PROXIES = 16384

_HCM = "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = {"name": "router", "typed_config": any_of("extensions.filters.http.router.v3.Router")}
_ALL_TO_APP = {
    "match": {"prefix": "/"},
    "route": {
        "cluster": names.APP_CLUSTER,
        "timeout": "0s",
        "max_stream_duration": {"grpc_timeout_header_max": "0s"},
    },
}


@lru_cache(maxsize=_PROXIES)
def build_inbound(spec: ProxySpec, identity: SpiffeId) -> Resource:
    """Mutual TLS from services of the mesh to the application."""
    assert spec.inbound is not None
    manager = _manager(
        names.INBOUND,
        {
            "codec_type": "HTTP2",
            "forward_client_cert_details": "SANITIZE_SET",
            "set_current_client_cert_details": {"uri": True},
            "route_config": {
                "name": names.INBOUND,
                "virtual_hosts": [{"name": names.APP_CLUSTER, "domains": ["*"], "routes": [_ALL_TO_APP]}],
            },
            "local_reply_config": {"mappers": [_MARK_NOT_DELIVERED]},
        },
        filters=[_only_members(identity)],
    )
    chain = {"transport_socket": build_downstream_tls(spec.secrets_dir, identity), "filters": [manager]}
    return _listener(names.INBOUND, _tcp(spec.inbound), chain, direction="INBOUND")


# UF: the sidecar could not connect to its application. The request has reached nobody.
_MARK_NOT_DELIVERED = {
    "filter": {"response_flag_filter": {"flags": ["UF"]}},
    "headers_to_add": [
        {"header": {"key": NOT_DELIVERED, "value": "true"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    ],
}


def _only_members(identity: SpiffeId) -> dict[str, Any]:
    """Per request, so that it holds on open connections, too: members may call, the registry may check health."""
    prefix = str(identity).removesuffix(identity.service)
    registry = {"authenticated": {"principal_name": {"exact": f"{prefix}{REGISTRY_SERVICE}"}}}
    member = {"authenticated": {"principal_name": {"prefix": prefix}}}
    policies = {
        "registry": {
            "permissions": [{"url_path": {"path": {"exact": HEALTH_CHECK}}}],
            "principals": [registry],
        },
        "members": {
            "permissions": [{"any": True}],
            "principals": [{"and_ids": {"ids": [member, {"not_id": registry}]}}],
        },
    }
    literal = {"rules": {"action": "ALLOW", "policies": policies}}
    return {"name": "rbac", "typed_config": any_of("extensions.filters.http.rbac.v3.RBAC", literal)}


@lru_cache(maxsize=_PROXIES)
def build_exposed_health(spec: ProxySpec) -> Resource:
    """The application's health, without TLS and nothing else, for a registry that has no identity of the mesh."""
    assert spec.exposed_health is not None
    check = {"match": {"path": HEALTH_CHECK}, "route": {"cluster": names.APP_CLUSTER, "timeout": "5s"}}
    refuse = {
        "match": {"prefix": "/"},
        "direct_response": {"status": 403, "body": {"inline_string": f"only {HEALTH_CHECK} is served here"}},
    }
    hosts = [{"name": names.APP_CLUSTER, "domains": ["*"], "routes": [check, refuse]}]
    routes = {"name": names.EXPOSED_HEALTH, "virtual_hosts": hosts}
    manager = _manager(names.EXPOSED_HEALTH, {"codec_type": "HTTP2", "route_config": routes})
    return _listener(names.EXPOSED_HEALTH, _tcp(spec.exposed_health), {"filters": [manager]}, direction="INBOUND")


@lru_cache(maxsize=_PROXIES)
def build_outbound(spec: ProxySpec) -> Resource:
    """The application's way out, on a unix socket that only its own account can open."""
    manager = _manager(
        names.OUTBOUND,
        {
            "codec_type": "HTTP2",
            # The application's retry marks (x-envoy-retry-grpc-on) are to be obeyed.
            "internal_address_config": {"unix_sockets": True},
            "rds": _over_ads(names.OUTBOUND),
        },
    )
    address = {"pipe": {"path": spec.outbound_socket, "mode": 0o600}}
    return _listener(names.OUTBOUND, address, {"filters": [manager]}, direction="OUTBOUND")


@lru_cache(maxsize=_PROXIES)
def build_edge(spec: ProxySpec) -> Resource:
    """The door for clients outside of the mesh: HTTP/1.1 and HTTP/2 without TLS. Internal headers do not get in."""
    assert spec.edge is not None
    manager = _manager(
        names.EDGE,
        {
            "codec_type": "AUTO",
            "use_remote_address": True,
            "skip_xff_append": True,
            # No address counts as internal, loopback included: its x-envoy-* headers are dropped. Without any range
            # Envoy takes loopback and private networks for internal, so here is one of no client (RFC 5737).
            "internal_address_config": {"cidr_ranges": [{"address_prefix": "192.0.2.1", "prefix_len": 32}]},
            "forward_client_cert_details": "SANITIZE",
            "rds": _over_ads(names.EDGE),
        },
    )
    return _listener(names.EDGE, _tcp(spec.edge), {"filters": [manager]}, direction="INBOUND")


def _manager(name: str, literal: dict[str, Any], *, filters: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    common = {
        "stat_prefix": name,
        # Dead peers are found by HTTP/2 keepalive; a quiet stream is not a dead one.
        "stream_idle_timeout": "0s",
        "common_http_protocol_options": {"idle_timeout": "3600s"},
        "http2_protocol_options": {
            "max_concurrent_streams": 1024,
            "initial_stream_window_size": 1 << 20,
            "initial_connection_window_size": 4 << 20,
            "connection_keepalive": {"interval": "30s", "timeout": "10s"},
        },
        "normalize_path": True,
        "http_filters": [*(filters or ()), _ROUTER],
        "generate_request_id": False,
    }
    return {"name": "http", "typed_config": any_of(_HCM, common | literal)}


def _listener(name: str, address: dict[str, Any], chain: dict[str, Any], *, direction: str) -> Resource:
    literal = {"name": name, "address": address, "traffic_direction": direction, "filter_chains": [chain]}
    return build_resource(names.LISTENER, name, literal)


def _tcp(address: Address) -> dict[str, Any]:
    return {"socket_address": {"address": address.host, "port_value": address.port}}


def _over_ads(name: str) -> dict[str, Any]:
    return {"route_config_name": name, "config_source": {"ads": {}, "resource_api_version": "V3"}}
