"""Listeners: inbound (mutual TLS), outbound (unix socket), and a health check in the clear where one must be."""

import json
from functools import lru_cache
from typing import Any

from mesh.model import Address, ProxySpec, SpiffeId
from mesh.xds import names
from mesh.xds.descriptors import envoy_message
from mesh.xds.resources.faults import FAULT_FILTER
from mesh.xds.resources.host import CLIENT_TRACE_ID
from mesh.xds.resources.intentions import HEALTH_CHECK, only_members, open_filter
from mesh.xds.resources.limits import adaptive_filter, connection_filter, open_rate_filter
from mesh.xds.resources.resource import Resource, any_of, build_body, wrap_body
from mesh.xds.resources.retries import NOT_DELIVERED
from mesh.xds.resources.tls import build_downstream_tls

# Listeners follow from the proxy alone; without this each change of any service would build them anew for every proxy.
_PROXIES = 16384

_HCM = "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_LISTENER = names.LISTENER.rpartition("/")[2]
_TRACER = "config.trace.v3.OpenTelemetryConfig"
_ROUTER = {"name": "router", "typed_config": any_of("extensions.filters.http.router.v3.Router")}


@lru_cache(maxsize=_PROXIES)
def build_inbound(spec: ProxySpec, identity: SpiffeId, *, is_traced: bool = False) -> Resource:
    """Mutual TLS from services of the mesh to the application.

    What may change while connections are open is not here: intentions and limits come with the routes, see `inbound`.
    """
    assert spec.inbound is not None
    manager = build_manager(
        names.INBOUND,
        {
            "codec_type": "HTTP2",
            "forward_client_cert_details": "SANITIZE_SET",
            "set_current_client_cert_details": {"uri": True},
            "rds": over_ads(names.INBOUND),
            "local_reply_config": {"mappers": [_MARK_NOT_DELIVERED]},
            **trace_settings(spec, is_traced),
        },
        filters=[
            # Per request, so that it holds on open connections, too.
            only_members(identity),
            open_filter(names.DENY_FILTER),
            open_filter(names.ALLOW_FILTER),
            open_rate_filter(names.LIMIT_FILTER),
            open_rate_filter(names.ROUTE_LIMIT_FILTER),
            adaptive_filter(),
        ],
    )
    chain = {
        "transport_socket": build_downstream_tls(spec.secrets_dir, identity),
        "filters": [connection_filter(), manager],
    }
    return build_listener(names.INBOUND, tcp(spec.inbound), chain, direction="INBOUND")


# UF: the sidecar could not connect to its application. The request has reached nobody.
_MARK_NOT_DELIVERED = {
    "filter": {"response_flag_filter": {"flags": ["UF"]}},
    "headers_to_add": [
        {"header": {"key": NOT_DELIVERED, "value": "true"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    ],
}


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
    manager = build_manager(names.EXPOSED_HEALTH, {"codec_type": "HTTP2", "route_config": routes})
    return build_listener(names.EXPOSED_HEALTH, tcp(spec.exposed_health), {"filters": [manager]}, direction="INBOUND")


@lru_cache(maxsize=_PROXIES)
def build_outbound(spec: ProxySpec, *, is_traced: bool = False) -> Resource:
    """The application's way out, on a unix socket that only its own account can open."""
    manager = build_manager(
        names.OUTBOUND,
        {
            # Applications may speak HTTP/1.1, too.
            "codec_type": "AUTO",
            # The application's retry marks (x-envoy-retry-grpc-on) are to be obeyed.
            "internal_address_config": {"unix_sockets": True},
            "rds": over_ads(names.OUTBOUND),
            **trace_settings(spec, is_traced),
        },
        filters=[FAULT_FILTER],
    )
    address = {"pipe": {"path": spec.outbound_socket, "mode": 0o600}}
    return build_listener(names.OUTBOUND, address, {"filters": [manager]}, direction="OUTBOUND")


def build_manager(name: str, literal: dict[str, Any], *, filters: list[dict[str, Any]] | None = None) -> dict[str, Any]:
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


def trace_settings(spec: ProxySpec, is_traced: bool, *, heeds_callers: bool = True) -> dict[str, Any]:
    """Spans for the collector. How many is said by each route: a change of it leaves the listener alone.

    `heeds_callers` traces what the caller traces, too, whatever the share.
    """
    if not is_traced:
        return {}
    literal = {
        "grpc_service": {"envoy_grpc": {"cluster_name": names.COLLECTOR_CLUSTER}, "timeout": "1s"},
        "service_name": spec.service,
    }
    provider = {"name": "envoy.tracers.opentelemetry", "typed_config": any_of(_TRACER, literal)}
    return {
        "tracing": {"provider": provider, "random_sampling": {"value": 0}, "spawn_upstream_span": True},
        # Envoy decides about a trace by the request id.
        "generate_request_id": True,
        "preserve_external_request_id": True,
        **({"early_header_mutation_extensions": [_HEED_CALLERS]} if heeds_callers else {}),
    }


# Envoy samples what it decides to trace and the caller's traceparent has not ruled out. So that its own share is for
# requests without a traceparent only, others carry a client's trace id, of which it traces all; routes take it off.
_HEED_CALLERS = {
    "name": "envoy.http.early_header_mutation.header_mutation",
    "typed_config": any_of(
        "extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
        {
            "mutations": [
                {"remove": CLIENT_TRACE_ID},
                {"append": {"header": {"key": CLIENT_TRACE_ID, "value": "%REQ(traceparent)%"}}},
            ]
        },
    ),
}


def build_listener(name: str, address: dict[str, Any], chain: dict[str, Any], *, direction: str) -> Resource:
    # All but the address is the same for many proxies and is most of the work. Serialized parts of a message that are
    # joined are the message, https://protobuf.dev/programming-guides/encoding/#last-one-wins ; it is put in order then.
    parts = _all_but_address(name, direction, json.dumps(chain)) + build_body(_LISTENER, name, {"address": address})
    body = envoy_message(_LISTENER).FromString(parts).SerializeToString(deterministic=True)
    return wrap_body(names.LISTENER, name, body)


@lru_cache(maxsize=1024)
def _all_but_address(name: str, direction: str, chain: str) -> bytes:
    literal = {"name": name, "traffic_direction": direction, "filter_chains": [json.loads(chain)]}
    return build_body(_LISTENER, name, literal)


def tcp(address: Address) -> dict[str, Any]:
    return {"socket_address": {"address": address.host, "port_value": address.port}}


def over_ads(name: str) -> dict[str, Any]:
    return {"route_config_name": name, "config_source": {"ads": {}, "resource_api_version": "V3"}}
