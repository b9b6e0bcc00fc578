"""Routes of the edge: by the authority NAME.mesh or NAME.localhost, by the header x-mesh-service, by the path.

Each route says in its metadata which service it leads to, so that what is decided about is what is called.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from mesh.config.document.edge import CacheRule, Cors
from mesh.rpc import SELECTOR
from mesh.rpc.contracts import find_reads
from mesh.xds import names
from mesh.xds.resources.edge.filters import decided_by_the_door
from mesh.xds.resources.host import Host, tracing_of
from mesh.xds.resources.resource import Resource, any_of, build_body, wrap_body
from mesh.xds.resources.routes import EDGE_SUFFIXES, build_answer, build_host, compose, service_routes, to_application
from mesh.xds.resources.values import always

GATEWAY = "gateway"
"""What routes say that lead to what the gateway itself serves."""

_GREETING = f"""\
This is the edge of an agentmesh.

REST      /v1, described at /openapi.json and /docs
gRPC      with reflection; name a service by the header `{SELECTOR}: NAME` or the authority NAME.mesh
GraphQL   /graphql
events    /events (SSE), /ws (WebSocket)
MCP       /mcp for all servers and agents, /servers/NAME/mcp for one server
A2A       /agents/NAME

`meshctl status` lists the names of services.
"""

_ROUTE = "envoy.config.route.v3.Route"
_ROUTES = names.ROUTE.rpartition("/")[2]
# gRPC, gRPC-Web, and Connect but for its JSON, which has become gRPC by then.
_IS_GRPC = {
    "name": "content-type",
    "string_match": {"safe_regex": {"regex": r"application/(grpc|proto|connect\+proto).*"}},
}
_IS_READ = {"name": ":method", "string_match": {"safe_regex": {"regex": "GET|HEAD"}}}
_A2A = "lf.a2a.v1.A2AService"
_REQUEST_TIME = "60s"

_ENDLESS = ("/graphql", "/events", "/ws")
_ENDLESS_BELOW = ("/agents/",)
_MCP = ({"path": "/mcp"}, {"prefix": "/servers/"})
_EXACT = ("/openapi.json", "/healthz", "/readyz")
_PREFIXES = ("/oauth2/", "/.well-known/", "/v1/auth/", "/v1/cache/", "/docs")


@lru_cache(maxsize=16384)
def build_edge_service(host: Host, cached: tuple[str, ...] = (), *, is_selected: bool = False) -> tuple[bytes, ...]:
    """The routes of a service in order, serialized; with `is_selected` only for requests that name it by header.

    Methods of `cached` go to the gateway's application, which keeps their answers for a time.
    """
    selector = [{"name": SELECTOR, "string_match": {"exact": host.service}}] if is_selected else []
    is_grpc = [_IS_GRPC] if host.policy.protocol == "grpc" else []

    def narrowed(literal: dict[str, Any]) -> dict[str, Any]:
        match = literal["match"]
        headers = [*selector, *is_grpc, *(it for it in match.get("headers", ()) if it not in is_grpc)]
        return literal | {"match": match | ({"headers": headers} if headers else {})} | _facts(host.service)

    literals = [narrowed(_to_cache(host, method)) for method in cached]
    if is_grpc:
        literals.append(narrowed(_to_a2a(host.sampling_percent, host.service)) | _facts(GATEWAY))
    literals += [narrowed(literal) for literal in service_routes(host)]
    if is_grpc:
        text = f"{host.service} speaks gRPC; what can be called without it is at /openapi.json"
        match = {"prefix": "/"} | ({"headers": selector} if selector else {})
        literals.append(_answer(match, text, status=415) | _facts(host.service))
    routes = tuple(build_body(_ROUTE, host.service, literal) for literal in literals)
    return routes if is_selected else (_preflight(), *routes)


@lru_cache(maxsize=64)
def build_edge_routes(
    hosts: tuple[bytes, ...], selected: tuple[bytes, ...], cors: Cors, sampling_percent: float | None = None
) -> Resource:
    """All routes of the edge: `hosts` are those by authority, `selected` those by header."""
    unknown = build_answer(
        f"there is no service of the name in header {SELECTOR}; `meshctl status` lists the names",
        headers=[{"name": SELECTOR, "present_match": True}],
    )
    own = [build_body(_ROUTE, GATEWAY, literal) for literal in _own_routes(sampling_percent)]
    rest = build_host(GATEWAY, ("*",), (_preflight(), *_misspelt(), *selected, unknown, *own))
    text = "there is no service of the name in the authority; `meshctl status` lists the names"
    stranger = build_host("unknown", tuple(f"*.{suffix}" for suffix in EDGE_SUFFIXES), (build_answer(text),))
    body = compose(names.EDGE, (*hosts, stranger, rest)).body
    return wrap_body(names.ROUTE, names.EDGE, body + _cors(cors))


def methods_to_cache(rules: Mapping[str, CacheRule], service: str) -> tuple[str, ...]:
    """The methods of a service whose answers are kept, sorted."""
    return tuple(
        sorted(
            {
                method
                for rule in rules.values()
                if "*" in rule.services or service in rule.services
                for pattern in rule.methods
                for method in find_reads(pattern)
            }
        )
    )


def _own_routes(sampling_percent: float | None) -> Iterable[dict[str, Any]]:
    """What the gateway itself serves: HTTP by path, gRPC in all other paths."""
    is_traced = tracing_of(sampling_percent)
    for match in (*({"path": path} for path in _ENDLESS), *({"prefix": prefix} for prefix in _ENDLESS_BELOW)):
        yield {"match": match, "route": _to_web("0s"), **is_traced, **_facts(GATEWAY)}
    for match in _MCP:
        yield {"match": match, "route": _to_web("0s"), **is_traced, **_facts(GATEWAY), **decided_by_the_door()}
    for match in (*({"path": path} for path in _EXACT), *({"prefix": prefix} for prefix in _PREFIXES)):
        yield {"match": match, "route": _to_web(_REQUEST_TIME), **is_traced, **_facts(GATEWAY)}
    yield {**_to_a2a(sampling_percent), **_facts(GATEWAY)}
    yield {"match": {"prefix": "/", "headers": [_IS_GRPC]}, **to_application(sampling_percent), **_facts(GATEWAY)}
    yield {
        "match": {"path": "/", "headers": [_IS_READ]},
        "direct_response": {"status": 200, "body": {"inline_string": _GREETING}},
        **_facts(GATEWAY),
    }
    yield _answer({"prefix": "/"}, "there is nothing at this path; /openapi.json tells what there is") | _facts(GATEWAY)


def _misspelt() -> tuple[bytes, ...]:
    """Paths of REST that belong to no method: those that do are none any more when a call is made.

    Not answered here: the filter for CORS, which looks before that, knows no policy of routes that answer themselves.
    """
    return tuple(
        build_body(_ROUTE, GATEWAY, {"match": {"prefix": prefix}, "route": _to_web(_REQUEST_TIME)} | _facts(GATEWAY))
        for prefix in ("/v1/servers/", "/v1/agents/")
    )


def _preflight() -> bytes:
    """What browsers ask before they let a page call: the filter for CORS answers it."""
    headers = [
        {"name": ":method", "string_match": {"exact": "OPTIONS"}},
        {"name": "origin", "present_match": True},
        {"name": "access-control-request-method", "present_match": True},
    ]
    literal = {"match": {"prefix": "/", "headers": headers}, "route": _to_web(_REQUEST_TIME)}
    return build_body(_ROUTE, GATEWAY, literal | _facts(GATEWAY))


def _to_web(timeout: str) -> dict[str, Any]:
    endless: dict[str, Any] = (
        {"max_stream_duration": {"max_stream_duration": "0s"}}
        if timeout == "0s"
        else {"max_stream_duration": {"max_stream_duration": timeout}}
    )
    return {"cluster": names.WEB_CLUSTER, "timeout": timeout, **endless}


def _to_cache(host: Host, method: str) -> dict[str, Any]:
    service = {"key": SELECTOR, "value": host.service}
    return {
        "match": {"path": f"/{method}"},
        **to_application(host.sampling_percent),
        "request_headers_to_add": [{"header": service, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}],
    }


def _to_a2a(sampling_percent: float | None, service: str = "") -> dict[str, Any]:
    """A2A in gRPC, which the gateway's application serves for every agent; it is told which address was called."""
    headers = {"x-forwarded-host": "%REQ(:authority)%", **({SELECTOR: service} if service else {})}
    return {
        "match": {"prefix": f"/{_A2A}/", "headers": [_IS_GRPC]},
        **to_application(sampling_percent),
        "request_headers_to_add": [
            {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
            for key, value in headers.items()
        ],
    }


def _facts(service: str) -> dict[str, Any]:
    return {"metadata": {"filter_metadata": {names.ROUTE_FACTS: {"service": service}}}}


def _answer(match: dict[str, Any], text: str, *, status: int = 404) -> dict[str, Any]:
    return {"match": match, "direct_response": {"status": status, "body": {"inline_string": text}}}


def _cors(cors: Cors) -> bytes:
    """What holds for all routes, as a part of a RouteConfiguration."""
    if not cors.origins:
        return b""
    is_any = "*" in cors.origins
    origins = [{"safe_regex": {"regex": ".*"}}] if is_any else [{"exact": origin} for origin in cors.origins]
    policy = {
        "allow_origin_string_match": origins,
        "allow_methods": ", ".join(cors.methods),
        "allow_headers": ", ".join(cors.headers),
        "expose_headers": ", ".join(cors.expose),
        "max_age": str(int(cors.max_age.total_seconds())),
        "allow_credentials": not is_any,
        "filter_enabled": always(),
    }
    packed = {names.CORS_FILTER: any_of("extensions.filters.http.cors.v3.CorsPolicy", policy)}
    return build_body(_ROUTES, names.EDGE, {"typed_per_filter_config": packed})
