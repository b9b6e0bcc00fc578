"""Routes: by authority inside of the mesh, by authority or header at the edge."""

from functools import lru_cache
from typing import Any

from mesh.xds import names
from mesh.xds.resources.resource import Resource, any_of, build_resource

SELECTOR = "x-mesh-service"
"""The header by which a client at the edge names the service that it wants."""

NOT_DELIVERED = "x-mesh-not-delivered"
"""Set by an inbound sidecar on its own answer when the request never reached the application."""

# Only what certainly did not run is retried for everybody. Callers mark what may run twice, see mesh.rpc.channels.
_RETRY: dict[str, Any] = {
    "retry_on": "connect-failure,refused-stream,retriable-headers",
    "retriable_headers": [{"name": NOT_DELIVERED, "present_match": True}],
    "num_retries": 3,
    "retry_host_predicate": [
        {
            "name": "previous_hosts",
            "typed_config": any_of("extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"),
        }
    ],
    "host_selection_retry_max_attempts": 5,
    "retry_back_off": {"base_interval": "0.010s", "max_interval": "0.100s"},
}

_GREETING = f"""\
This is the edge of an agentmesh. It speaks gRPC, with reflection.
Name a service by the header `{SELECTOR}: NAME` or the authority NAME.mesh; `meshctl status` lists the names.
"""


def _to(cluster: str, *, retries: bool) -> dict[str, Any]:
    return {
        "cluster": cluster,
        # No default cuts a stream or a long call; a caller's grpc-timeout holds.
        "timeout": "0s",
        "max_stream_duration": {"grpc_timeout_header_max": "0s"},
        **({"retry_policy": _RETRY} if retries else {}),
    }


@lru_cache(maxsize=4096)
def build_outbound_routes(service: str, upstreams: tuple[str, ...]) -> Resource:
    """By authority NAME.mesh (or NAME) to each upstream; anything else is answered with what is wrong."""
    hosts = [
        {
            "name": upstream,
            "domains": _domains(upstream, ("mesh",)),
            "routes": [{"match": {"prefix": "/"}, "route": _to(upstream, retries=True)}],
        }
        for upstream in sorted(upstreams)
    ]
    text = f"{service} has not declared the called service as an upstream, or it does not exist"
    unknown = {
        "name": "unknown",
        "domains": ["*"],
        "routes": [_answer(text)],
    }
    literal = {"name": names.OUTBOUND, "virtual_hosts": [*hosts, unknown]}
    return build_resource(names.ROUTE, names.OUTBOUND, literal)


@lru_cache(maxsize=256)
def build_edge_routes(upstreams: tuple[str, ...]) -> Resource:
    """By header x-mesh-service, else by authority NAME.mesh or NAME.localhost; the rest to the gateway application."""
    by_header = [
        {
            "match": {"prefix": "/", "headers": [{"name": SELECTOR, "string_match": {"exact": upstream}}]},
            "route": _to(upstream, retries=True),
        }
        for upstream in sorted(upstreams)
    ]
    unknown = _answer(f"there is no service of the name in header {SELECTOR}; `meshctl status` lists the names")
    unknown["match"]["headers"] = [{"name": SELECTOR, "present_match": True}]
    hosts = [
        {
            "name": upstream,
            "domains": _domains(upstream, ("mesh", "localhost")),
            "routes": [{"match": {"prefix": "/"}, "route": _to(upstream, retries=True)}],
        }
        for upstream in sorted(upstreams)
    ]
    # Of what comes without a name the application answers gRPC: with reflection, health, or an error that helps.
    application = {"match": {"prefix": "/", "grpc": {}}, "route": _to(names.APP_CLUSTER, retries=False)}
    rest = {"name": "gateway", "domains": ["*"], "routes": [*by_header, unknown, application, _answer(_GREETING)]}
    stranger = {
        "name": "unknown",
        "domains": _wildcards(("mesh", "localhost")),
        "routes": [_answer("there is no service of the name in the authority; `meshctl status` lists the names")],
    }
    return build_resource(names.ROUTE, names.EDGE, {"name": names.EDGE, "virtual_hosts": [*hosts, stranger, rest]})


def build_empty_routes(name: str) -> Resource:
    """Routes that lead nowhere: an Envoy that is told that its routes do not exist never becomes live."""
    return build_resource(names.ROUTE, name, {"name": name})


def _answer(text: str) -> dict[str, Any]:
    """An answer by Envoy itself: 404, which gRPC clients see as UNIMPLEMENTED with the text."""
    return {"match": {"prefix": "/"}, "direct_response": {"status": 404, "body": {"inline_string": text}}}


def _wildcards(suffixes: tuple[str, ...]) -> list[str]:
    """Every other name with one of the suffixes."""
    return [f"*.{suffix}" for suffix in suffixes]


def _domains(service: str, suffixes: tuple[str, ...]) -> list[str]:
    hosts = [f"{service}.{suffix}" for suffix in suffixes] + ([service] if suffixes == ("mesh",) else [])
    return [domain for host in hosts for domain in (host, f"{host}:*")]
