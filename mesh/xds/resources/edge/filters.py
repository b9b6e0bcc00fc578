"""What is asked of a request at the edge, in this order, and what is made of its answer, in the reverse one.

service-by-path, headers     /v1/servers/NAME/... names the service; internal headers; security headers
cors, compression, answers   for browsers; problem details and limits in their standard form
client-limits, body-size     before anything is believed or buffered
grpc-web, connect            other forms of gRPC become gRPC
tokens                       JSON Web Tokens are verified
rest                         REST becomes gRPC
guard                        the gateway's application decides
shared-limits                what all gateways count together
"""

import base64
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import mesh
from mesh.config.document.edge import Edge
from mesh.rpc import SELECTOR
from mesh.rpc.context import PEER, TOKEN_FACTS
from mesh.rpc.contracts import PUBLIC, public_descriptor_set
from mesh.xds import names
from mesh.xds.resources.edge.limits import client_limits_filter, shared_limits_filter
from mesh.xds.resources.edge.tokens import FACTS, tokens_filter
from mesh.xds.resources.faults import FAULT_FILTER
from mesh.xds.resources.limits import build_extension, discovered
from mesh.xds.resources.resource import Resource, any_of

CORRELATION_ID = "x-correlation-id"

ANSWERS = Path(mesh.__file__).resolve().parents[1] / "sidecar_config" / "answers.lua"

_HTTP = "extensions.filters.http"
_MUTATION = f"{_HTTP}.header_mutation.v3.HeaderMutation"
_CONNECT = f"{_HTTP}.connect_grpc_bridge.v3.FilterConfig"
_COMPRESSED = (
    "application/json",
    "application/problem+json",
    "application/graphql-response+json",
    "text/html",
    "text/css",
    "text/plain",
    "application/javascript",
    "text/javascript",
)
_COMPRESSOR = f"{_HTTP}.compressor.v3.Compressor"
_BY_PATH = r"^(?:/v1/(?:servers|agents)/([a-z0-9-]+)(?:[/:?].*)?|.*)$"
_LARGEST_INSPECTED = 1 << 20
_GUARD, _GUARD_WITH_BODY = "guard", "guard-with-body"
_GUARD_TIMEOUT = "5s"

# What names the tool or the skill is in the message, and so is what the firewall looks at. All others are decided by
# their headers; a password is nothing that the guard should see.
_WITH_BODY = (
    "/agentmesh.mcp.v1.McpBridgeService/CallTool",
    "/agentmesh.mcp.v1.McpBridgeService/InvokeTool",
    "/agentmesh.agent.v1.AgentService/SubmitTask",
    "/graphql",
)


def build_filters(edge: Edge) -> list[dict[str, Any]]:
    """All HTTP filters of the edge but the router."""
    return [
        _service_by_path(),
        discovered(names.HEADERS, any_of(_MUTATION, _headers(())), _MUTATION),
        {"name": names.CORS_FILTER, "typed_config": any_of(f"{_HTTP}.cors.v3.Cors")},
        discovered(names.COMPRESSION, any_of(_COMPRESSOR, _compression(True)), _COMPRESSOR),
        {"name": "answers", "typed_config": _answers()},
        _unless("body-size", _starts("content-type", "application/grpc"), _body_size(edge.protection.max_body_bytes)),
        {"name": "grpc-web", "typed_config": any_of(f"{_HTTP}.grpc_web.v3.GrpcWeb")},
        # A Connect call in JSON is what the transcoder takes; servers know nothing of JSON in gRPC.
        _unless("connect", _starts("content-type", "application/json"), any_of(_CONNECT)),
        tokens_filter(),
        {"name": "rest", "typed_config": _rest()},
        client_limits_filter(),
        _unless(_GUARD, _is_one_of(":path", _WITH_BODY), _guard({})),
        _unless(_GUARD_WITH_BODY, _is_one_of(":path", _WITH_BODY), _guard(_BODY), invert=True),
        shared_limits_filter(),
        FAULT_FILTER,
    ]


@cache
def decided_by_the_door() -> dict[str, Any]:
    """The part of a route whose door lets requests in by itself: the guard is not asked, the door is told instead."""
    off = any_of(f"{_HTTP}.ext_authz.v3.ExtAuthzPerRoute", {"disabled": True})
    told = {TOKEN_FACTS: f"%DYNAMIC_METADATA({FACTS})%", PEER: "%DOWNSTREAM_PEER_URI_SAN%"}
    return {
        "typed_per_filter_config": {_GUARD: off, _GUARD_WITH_BODY: off},
        "request_headers_to_add": [
            {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
            for name, value in told.items()
        ],
    }


@lru_cache(maxsize=64)
def build_headers(security: Mapping[str, str]) -> Resource:
    """Headers that requests and answers get at the edge."""
    return build_extension(names.HEADERS, any_of(_MUTATION, _headers(tuple(sorted(security.items())))))


@lru_cache(maxsize=2)
def build_compression(is_on: bool) -> Resource:
    """Compression of answers, by what the client accepts."""
    return build_extension(names.COMPRESSION, any_of(_COMPRESSOR, _compression(is_on)))


def _service_by_path() -> dict[str, Any]:
    rewrite = {"pattern": {"regex": _BY_PATH}, "substitution": r"\1"}
    rule = {
        "header": ":path",
        "on_header_present": {
            "metadata_namespace": names.ROUTE_FACTS,
            "key": "by-path",
            "regex_value_rewrite": rewrite,
        },
    }
    literal = {"request_rules": [rule]}
    return {"name": "service-by-path", "typed_config": any_of(f"{_HTTP}.header_to_metadata.v3.Config", literal)}


def _headers(security: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    by_path = f"%DYNAMIC_METADATA({names.ROUTE_FACTS}:by-path)%"
    return {
        "mutations": {
            "request_mutations": [
                _set(SELECTOR, by_path, "OVERWRITE_IF_EXISTS_OR_ADD"),
                _set(CORRELATION_ID, "%REQ(x-request-id)%", "ADD_IF_ABSENT"),
            ],
            "response_mutations": [
                *(_set(name, value.replace("%", "%%"), "ADD_IF_ABSENT") for name, value in security),
                _set(CORRELATION_ID, f"%REQ({CORRELATION_ID})%", "ADD_IF_ABSENT"),
                {"remove": "x-envoy-upstream-service-time"},
                {"remove": "x-envoy-ratelimited"},
            ],
        }
    }


def _set(name: str, value: str, action: str) -> dict[str, Any]:
    return {"append": {"header": {"key": name, "value": value}, "append_action": action}}


def _compression(is_on: bool) -> dict[str, Any]:
    gzip = any_of("extensions.compression.gzip.compressor.v3.Gzip", {"compression_level": "COMPRESSION_LEVEL_1"})
    return {
        "compressor_library": {"name": "gzip", "typed_config": gzip},
        "response_direction_config": {
            "common_config": {
                "enabled": {"default_value": is_on, "runtime_key": "mesh.compression"},
                "min_content_length": 1024,
                "content_type_matcher": [{"prefix": kind} for kind in _COMPRESSED],
            },
            "weaken_etag_on_compress": True,
        },
    }


@cache
def _answers() -> dict[str, Any]:
    code = {"inline_string": ANSWERS.read_text(encoding="utf-8")}
    return any_of(f"{_HTTP}.lua.v3.Lua", {"default_source_code": code})


def _body_size(most: int) -> dict[str, Any]:
    return any_of(f"{_HTTP}.body_size_limit.v3.BodySizeLimit", {"max_request_bytes": most})


@cache
def _rest() -> dict[str, Any]:
    literal = {
        "proto_descriptor_bin": base64.b64encode(public_descriptor_set()).decode(),
        "services": [service.full_name for service in PUBLIC],
        "convert_grpc_status": True,
        "request_validation_options": {
            "reject_unknown_query_parameters": True,
            "reject_binding_body_field_collisions": True,
        },
        "url_unescape_spec": "ALL_CHARACTERS",
        "case_insensitive_enum_parsing": True,
        "print_options": {"always_print_primitive_fields": False},
    }
    return any_of(f"{_HTTP}.grpc_json_transcoder.v3.GrpcJsonTranscoder", literal)


_BODY = {
    "with_request_body": {"max_request_bytes": _LARGEST_INSPECTED, "allow_partial_message": True, "pack_as_bytes": True}
}


def _guard(body: dict[str, Any]) -> dict[str, Any]:
    literal = {
        "grpc_service": {"envoy_grpc": {"cluster_name": names.GUARD_CLUSTER}, "timeout": _GUARD_TIMEOUT},
        "transport_api_version": "V3",
        "status_on_error": {"code": "ServiceUnavailable"},
        "metadata_context_namespaces": [FACTS],
        "route_metadata_context_namespaces": [names.ROUTE_FACTS],
        **body,
    }
    return any_of(f"{_HTTP}.ext_authz.v3.ExtAuthz", literal)


def _unless(name: str, predicate: dict[str, Any], config: dict[str, Any], *, invert: bool = False) -> dict[str, Any]:
    """A filter that is passed over for requests that fit the predicate; with `invert` for those that do not."""
    skip = {"name": "skip", "typed_config": any_of("extensions.filters.common.matcher.action.v3.SkipFilter")}
    asked = {"not_matcher": predicate} if invert else predicate
    literal = {
        "xds_matcher": {"matcher_list": {"matchers": [{"predicate": asked, "on_match": {"action": skip}}]}},
        "extension_config": {"name": name, "typed_config": config},
    }
    return {"name": name, "typed_config": any_of("extensions.common.matching.v3.ExtensionWithMatcher", literal)}


def _starts(header: str, prefix: str) -> dict[str, Any]:
    return _single(header, {"prefix": prefix})


def _is_one_of(header: str, values: tuple[str, ...]) -> dict[str, Any]:
    return {"or_matcher": {"predicate": [_single(header, {"exact": value}) for value in values]}}


def _single(header: str, value: dict[str, Any]) -> dict[str, Any]:
    of_header = any_of("type.matcher.v3.HttpRequestHeaderMatchInput", {"header_name": header})
    return {"single_predicate": {"input": {"name": "header", "typed_config": of_header}, "value_match": value}}
