"""What only Envoy itself refuses: the rest of the same change is taken, and what was mended is taken, too.

Documents that would lead here are refused before; so the resources are spoilt behind the back of the document.
"""

import asyncio

import pytest

from mesh.xds import names, outline
from mesh.xds.resources import build_resource

pytestmark = pytest.mark.asyncio(loop_scope="session")

EDS = {"type": "EDS", "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}}}
CORE = "type.googleapis.com/envoy.config.core.v3."
TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
LIMIT = "type.googleapis.com/envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit"
ANYWHERE = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
UNREADABLE = {"certificate_chain": {"inline_string": "none"}, "private_key": {"inline_string": "none"}}
NO_BALANCER = {"name": "none", "typed_config": {"@type": CORE + "Node"}}

CLUSTER = ("build_upstream_cluster", names.CLUSTER, "backup")
ROUTES = ("build_inbound_routes", names.ROUTE, names.INBOUND)
LISTENER = ("build_inbound", names.LISTENER, names.INBOUND)
EXTENSION = ("build_connection_limit", names.EXTENSION, names.CONNECTION_LIMIT)

CLASSES = {
    "a rule of a field": (*CLUSTER, {**EDS, "connect_timeout": "0s"}),
    "a rule between fields": (*CLUSTER, {**EDS, "lb_policy": "CLUSTER_PROVIDED"}),
    "fields of another kind of cluster": (*CLUSTER, {**EDS, "type": "STATIC"}),
    "an extension of another category": (
        *CLUSTER,
        {**EDS, "load_balancing_policy": {"policies": [{"typed_extension_config": NO_BALANCER}]}},
    ),
    "a certificate that is none": (
        *CLUSTER,
        {
            **EDS,
            "transport_socket": {
                "name": "tls",
                "typed_config": {"@type": TLS, "common_tls_context": {"tls_certificates": [UNREADABLE]}},
            },
        },
    ),
    "a host twice": (*ROUTES, {"virtual_hosts": [{"name": name, "domains": ["*"]} for name in "ab"]}),
    "a route without a match": (
        *ROUTES,
        {"virtual_hosts": [{"name": "a", "domains": ["*"], "routes": [{"direct_response": {"status": 200}}]}]},
    ),
    "a listener with a filter that is not there": (
        *LISTENER,
        {"address": ANYWHERE, "filter_chains": [{"filters": [{"name": "no.such.filter"}]}]},
    ),
    "an address that cannot be bound": (
        *LISTENER,
        {"address": {"socket_address": {"address": "192.0.2.1", "port_value": 1}}, "filter_chains": [{"filters": []}]},
    ),
    "a rule of an extension's field": (
        *EXTENSION,
        {"typed_config": {"@type": LIMIT, "stat_prefix": "x", "max_connections": 0}},
    ),
}


@pytest.mark.parametrize(("builder", "kind", "name", "literal"), CLASSES.values(), ids=CLASSES)
async def test_what_envoy_refuses_is_held_back_alone_and_recovers(world, monkeypatch, builder, kind, name, literal):
    await world.apply()
    build = getattr(outline, builder)

    def spoil(*facts, **options):
        right = build(*facts, **options)
        return build_resource(kind, name, {"name": name, **literal}) if right.name == name else right

    with monkeypatch.context() as patch:
        patch.setattr(outline, builder, spoil)
        with pytest.raises(AssertionError):
            await world.apply({"services": {"echo": {"circuit_breaker": {"max_requests": 77}}}})
        async with asyncio.timeout(8):
            # Of the same change echo's cluster is taken.
            while '"max_requests": 77' not in (await world.envoys["caller"].ask("/config_dump"))[1]:
                await asyncio.sleep(0.01)
            while held(world) != {(names.SHORT_NAMES[kind], name)}:
                await asyncio.sleep(0.01)
        # And of what was refused the last that was good is still in use.
        assert (await world.say("backup.mesh"))["app"] == "backup-1"
        assert (await world.say("echo.mesh"))["app"] in {"echo-1", "echo-2"}
    await world.apply()
    assert (await world.say("backup.mesh"))["app"] == "backup-1"


def held(world):
    return {(kind.type, name) for proxy in world.ads.proxies() for kind in proxy.resources for name in kind.held_back}
