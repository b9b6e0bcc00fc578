"""The doors of the edge: with TLS, and without it for development. What is behind them is the same."""

from functools import lru_cache
from typing import Any

from mesh.config.document.edge import Edge, Protection
from mesh.model import Address, ProxySpec
from mesh.rpc.context import PEER, TOKEN_FACTS, USER_TOKEN
from mesh.xds import names
from mesh.xds.resources.edge.filters import CORRELATION_ID, build_filters
from mesh.xds.resources.limits import connection_filter
from mesh.xds.resources.listeners import build_listener, build_manager, over_ads, tcp, trace_settings
from mesh.xds.resources.resource import Resource, any_of
from mesh.xds.resources.tls import build_edge_tls
from mesh.xds.resources.values import seconds

_EARLY = "extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"

# No client has an address in it (RFC 5737).
_NOBODY = {"cidr_ranges": [{"address_prefix": "192.0.2.1", "prefix_len": 32}]}

_NOT_FOR_CLIENTS = (
    USER_TOKEN,
    TOKEN_FACTS,
    PEER,
    "x-forwarded-host",
    "x-forwarded-client-cert",
    "x-original-url",
    "x-rewrite-url",
)


@lru_cache(maxsize=256)
def build_edge(spec: ProxySpec, edge: Edge, *, is_tls: bool, is_traced: bool = False) -> Resource:
    """One door for clients outside of the mesh: HTTP/1.1 and HTTP/2. Internal headers do not get in."""
    name, address = (names.EDGE_TLS, spec.edge_tls) if is_tls else (names.EDGE, spec.edge)
    assert isinstance(address, Address)
    manager = build_manager(name, _manager(spec, edge, is_traced), filters=build_filters(edge))
    filters = [connection_filter(names.EDGE_CONNECTION_LIMIT), manager]
    chain: dict[str, Any] = {"filters": filters, "transport_socket_connect_timeout": "10s"}
    if is_tls:
        chain["transport_socket"] = build_edge_tls(spec.secrets_dir)
    return build_listener(name, tcp(address), chain, direction="INBOUND")


def _manager(spec: ProxySpec, edge: Edge, is_traced: bool) -> dict[str, Any]:
    bounds = edge.protection
    return {
        "codec_type": "AUTO",
        "rds": over_ads(names.EDGE),
        "use_remote_address": True,
        "xff_num_trusted_hops": bounds.trusted_hops,
        # No address counts as internal, loopback included: its x-envoy-* headers are dropped. Without any range Envoy
        # takes loopback and private networks for internal, so here is one of no client.
        "internal_address_config": _NOBODY,
        "forward_client_cert_details": "SANITIZE",
        "early_header_mutation_extensions": [_without(bounds)],
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "server_name": "agentmesh",
        "merge_slashes": True,
        "local_reply_config": {"mappers": _PROBLEMS},
        **_bounds(bounds),
        # Strangers do not decide what is traced.
        **trace_settings(spec, is_traced, heeds_callers=False),
        "generate_request_id": True,
        "preserve_external_request_id": False,
    }


def _bounds(bounds: Protection) -> dict[str, Any]:
    return {
        "stream_idle_timeout": seconds(bounds.stream_idle_timeout),
        "request_headers_timeout": seconds(bounds.header_timeout),
        "max_request_headers_kb": bounds.max_header_kb,
        "common_http_protocol_options": {
            "idle_timeout": seconds(bounds.connection_idle_timeout),
            "max_headers_count": bounds.max_headers,
        },
        "http2_protocol_options": {
            "max_concurrent_streams": bounds.max_concurrent_streams,
            "initial_stream_window_size": 1 << 20,
            "initial_connection_window_size": 4 << 20,
            "connection_keepalive": {"interval": "30s", "timeout": "10s"},
        },
    }


def _without(bounds: Protection) -> dict[str, Any]:
    """Takes off what only the mesh may say, before any filter reads it."""
    removed = _NOT_FOR_CLIENTS if bounds.trusted_hops else (*_NOT_FOR_CLIENTS, "x-forwarded-for", "x-forwarded-proto")
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": any_of(_EARLY, {"mutations": [{"remove": name} for name in removed]}),
    }


def _problem(title: str, status: int, op: str = "EQ") -> dict[str, Any]:
    """A problem (RFC 9457) in place of Envoy's own words, on calls that are not gRPC."""
    is_http = {
        "or_filter": {
            "filters": [
                _header("content-type", {"string_match": {"prefix": "application/grpc"}, "invert_match": True}),
                _header("x-envoy-original-path", {"present_match": True}),
            ]
        }
    }
    of_status = {"status_code_filter": {"comparison": {"op": op, "value": _number(status)}}}
    body = {
        "type": "about:blank",
        "title": title,
        "status": "%RESPONSE_CODE%",
        "detail": "%LOCAL_REPLY_BODY%",
        "correlation_id": f"%REQ({CORRELATION_ID})%",
    }
    return {
        "filter": {"and_filter": {"filters": [of_status, is_http]}},
        "body_format_override": {"json_format": body, "content_type": "application/problem+json"},
    }


def _header(name: str, match: dict[str, Any]) -> dict[str, Any]:
    missing = {"treat_missing_header_as_empty": True} if match.get("invert_match") else {}
    return {"header_filter": {"header": {"name": name, **match, **missing}}}


def _number(value: int) -> dict[str, Any]:
    return {"default_value": value, "runtime_key": f"mesh.status.{value}"}


_TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    408: "Request Timeout",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}
_PROBLEMS = [*(_problem(title, status) for status, title in _TITLES.items()), _problem("Error", 400, "GE")]
