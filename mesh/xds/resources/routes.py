"""Routes of callers: by authority inside of the mesh. Those of the edge are in `edge.routes`.

Routes of one service are serialized once and put together as bytes, so that a change of one service builds its own
routes anew and no others, however many there are.
"""

from collections.abc import Iterable
from functools import cache, lru_cache
from typing import Any

from mesh.xds import names
from mesh.xds.resources.actions import build_route
from mesh.xds.resources.host import Host, tracing_of
from mesh.xds.resources.matches import build_match
from mesh.xds.resources.resource import Resource, build_body, build_resource, wrap_body

_ROUTE = "envoy.config.route.v3.Route"
_HOST = "envoy.config.route.v3.VirtualHost"
_EVERYTHING = {"prefix": "/"}

# Field numbers of envoy.config.route.v3.
_NAME_FIELD = 1
_HOSTS_FIELD = 2
_ROUTES_FIELD = 3


@lru_cache(maxsize=16384)
def build_service_routes(host: Host) -> tuple[bytes, ...]:
    """The routes of a service in order, serialized."""
    return tuple(build_body(_ROUTE, host.service, literal) for literal in service_routes(host))


def service_routes(host: Host) -> list[dict[str, Any]]:
    """The routes of a service in order; the last one takes everything."""
    chosen = [build_route(host, route, build_match(route.match)) for route in host.policy.routes]
    return [*chosen, build_route(host, None, _EVERYTHING)]


@lru_cache(maxsize=16384)
def build_host(name: str, domains: tuple[str, ...], routes: tuple[bytes, ...]) -> bytes:
    """A VirtualHost of serialized routes."""
    head = build_body(_HOST, name, {"name": name, "domains": list(domains)})
    return head + b"".join(_field(_ROUTES_FIELD, route) for route in routes)


@lru_cache(maxsize=1024)
def build_outbound_routes(service: str, hosts: tuple[bytes, ...]) -> Resource:
    """Virtual hosts of the upstreams; anything else is answered with what is wrong."""
    text = f"{service} has not declared the called service as an upstream, or it does not exist"
    return compose(names.OUTBOUND, (*hosts, build_host("unknown", ("*",), (build_answer(text),))))


@cache
def build_control_host() -> bytes:
    """The control plane, for those who may call it; its cluster stands in the bootstrap."""
    route = {
        "cluster": names.CONTROL_CLUSTER,
        "timeout": "0s",
        "max_stream_duration": {"grpc_timeout_header_max": "0s"},
    }
    domain = f"{names.CONTROL_CLUSTER}.mesh"
    return build_host(
        names.CONTROL_CLUSTER,
        (domain, f"{domain}:*"),
        (build_body(_ROUTE, names.CONTROL_CLUSTER, {"match": _EVERYTHING, "route": route}),),
    )


def to_application(sampling_percent: float | None = None) -> dict[str, Any]:
    """The action of a Route to the own application: no time limit but the caller's own."""
    action = {
        "cluster": names.APP_CLUSTER,
        "timeout": "0s",
        "max_stream_duration": {"grpc_timeout_header_max": "0s"},
    }
    return {"route": action, **tracing_of(sampling_percent)}


def build_empty_routes(name: str) -> Resource:
    """Routes that lead nowhere: an Envoy that is told that its routes do not exist never becomes live."""
    return build_resource(names.ROUTE, name, {"name": name})


MESH_SUFFIXES = ("mesh",)
EDGE_SUFFIXES = ("mesh", "localhost")


def claim_domains(
    services: Iterable[tuple[str, Iterable[str]]], *, is_edge: bool = False
) -> dict[str, tuple[str, ...]]:
    """The domains of each service: its own names, and those further authorities that nobody before it has.

    Envoy refuses all routes when two virtual hosts have the same domain, so a service that comes later and is called as
    an authority of another one takes that name.
    """
    asked = sorted((name, tuple(authorities)) for name, authorities in services)
    suffixes = EDGE_SUFFIXES if is_edge else MESH_SUFFIXES
    own = {name: [f"{name}.{suffix}" for suffix in suffixes] + ([] if is_edge else [name]) for name, _ in asked}
    taken = {host for hosts in own.values() for host in hosts}
    for name, authorities in asked:
        free = [it for it in dict.fromkeys(authorities) if it not in taken]
        taken.update(free)
        own[name] += free
    return {name: tuple(it for host in hosts for it in (host, f"{host}:*")) for name, hosts in own.items()}


def build_answer(text: str, headers: Iterable[dict[str, Any]] = ()) -> bytes:
    """An answer by Envoy itself: 404, which gRPC clients see as UNIMPLEMENTED with the text."""
    literal = {
        "match": {"prefix": "/", "headers": list(headers)},
        "direct_response": {"status": 404, "body": {"inline_string": text}},
    }
    return build_body(_ROUTE, "unknown", literal)


def compose(name: str, hosts: Iterable[bytes]) -> Resource:
    """A RouteConfiguration of serialized virtual hosts."""
    body = _field(_NAME_FIELD, name.encode()) + b"".join(_field(_HOSTS_FIELD, host) for host in hosts)
    return wrap_body(names.ROUTE, name, body)


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protobuf message; https://protobuf.dev/programming-guides/encoding."""
    length = len(content)
    head = bytearray([number << 3 | 2])
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + content
