"""Envoy keeps up with what changes: endpoints, clusters, listeners, and the control plane itself."""

import asyncio
import contextlib
import socket
from dataclasses import replace

import grpc
import pytest

from benchmarks.ports import free_ports
from mesh.model import Address, Declaration, Instance
from mesh.rpc import open_target
from mesh.state import StateStore
from mesh.xds import names, outline
from mesh.xds.reconcile import Reconciler
from mesh.xds.resources import build_resource


def instance(service, port, number=1):
    return Instance(service, f"{service}-{number}", "127.0.0.1", port)


@contextlib.asynccontextmanager
async def open_way_out(spec, service="echo"):
    async with open_target(f"unix:{spec.outbound_socket}", authority=f"{service}.mesh") as channel:
        yield channel.unary_unary("/echo.v1.Echo/Say")


async def test_a_call_goes_through_two_sidecars_and_a_new_endpoint_is_used(
    serve, store, specs, open_envoy, open_echo, eventually_true
):
    caller, echo = specs["sidecar"], specs["exposed_health"]
    (gone,) = free_ports(1)
    store.set_services({"echo": (instance("echo", gone),)})
    async with (
        serve(store) as (_, control),
        open_echo(),
        open_envoy(echo, control),
        open_envoy(caller, control) as envoy,
        open_way_out(caller) as say,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await say(b"", timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await envoy.endpoints("echo") == [gone]
        store.set_services({"echo": (instance("echo", echo.inbound.port, 2),)})

        async def has_arrived():
            return await envoy.endpoints("echo") == [echo.inbound.port]

        await eventually_true(has_arrived)
        assert b"URI=spiffe://mesh.test/ns/default/svc/caller" in await say(b"", timeout=5)


async def test_a_changed_cluster_is_in_use_at_once_on_the_same_stream_and_after_a_reconnect(
    serve, store, specs, open_envoy, eventually_true, monkeypatch, to_dict
):
    """Without its endpoints Envoy keeps the old cluster until its initial_fetch_timeout of 15 s is over."""
    spec = specs["sidecar"]
    build = outline.build_upstream_cluster

    def change_clusters(timeout):
        def changed(*args):
            resource = build(*args)
            return build_resource(names.CLUSTER, resource.name, to_dict(resource) | {"connect_timeout": timeout})

        monkeypatch.setattr(outline, "build_upstream_cluster", changed)

    async def is_in_use():
        wanted = Reconciler().sidecar_snapshot(store.current, spec).of(names.CLUSTER)
        warming = await envoy.stats("cluster_manager.warming_clusters")
        found = await envoy.has("cluster")
        return found == {name: resource.version for name, resource in wanted.items()} and not any(warming.values())

    async with serve(store) as (_, control):
        async with open_envoy(spec, control) as envoy:
            await eventually_true(is_in_use)
            change_clusters("2s")
            caller = store.current.declarations["caller"]
            store.set_declarations({**store.current.declarations, "caller": replace(caller, kind="service")})
            store.set_services({"echo": (instance("echo", 1),)})
            await eventually_true(is_in_use)
            assert await envoy.endpoints("echo") == [1]
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(contextlib.AsyncExitStack())
        _, control = await first.enter_async_context(serve(store))
        envoy = await stack.enter_async_context(open_envoy(spec, control))
        await first.aclose()
        change_clusters("3s")
        await stack.enter_async_context(serve(store, port=control.port))
        await eventually_true(is_in_use)


async def test_a_listener_that_envoy_cannot_bind_is_refused_once_and_the_others_work(
    serve, store, specs, open_envoy, eventually_true, capfd
):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        spec = replace(specs["sidecar"], inbound=Address(*taken.getsockname()))
        async with serve(store) as (ads, control), open_envoy(spec, control, is_live=False) as envoy:

            async def is_held():
                return any(kind.held_back == ("inbound",) for proxy in ads.proxies() for kind in proxy.resources)

            await eventually_true(is_held)
            store.set_services({"echo": (instance("echo", 7),)})

            async def has_arrived():
                return await envoy.endpoints("echo") == [7]

            await eventually_true(has_arrived)
            assert set(await envoy.has("listener")) >= {"outbound"}
    assert capfd.readouterr().err.count('"config_rejected"') == 1


async def test_a_restarted_control_plane_changes_nothing_and_takes_no_endpoint_away(
    serve, store, specs, open_envoy, open_echo, eventually_true, refusals
):
    """Not even while the new one has not heard from the registry yet."""
    caller, echo = specs["sidecar"], specs["exposed_health"]
    counters = "cluster_modified|cluster_added|cluster_removed|listener_added|listener_modified|membership_change"
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(contextlib.AsyncExitStack())
        ads, control = await first.enter_async_context(serve(store))
        await stack.enter_async_context(open_echo())
        await stack.enter_async_context(open_envoy(echo, control))
        envoy = await stack.enter_async_context(open_envoy(caller, control))
        say = await stack.enter_async_context(open_way_out(caller))

        async def is_connected():
            return len(ads.proxies()) == 2

        await eventually_true(is_connected)
        await say(b"", timeout=5)
        before = await envoy.stats(counters)
        await first.aclose()
        ready = asyncio.Event()
        known, empty = store.current.services, StateStore(replace(store.current, services={}))
        ads, _ = await stack.enter_async_context(serve(empty, port=control.port, ready=ready))

        async def has_come_back():
            return (await envoy.stats("control_plane.connected_state")).get("control_plane.connected_state") == 1

        await eventually_true(has_come_back)
        await say(b"", timeout=5)
        assert ads.proxies() == ()
        empty.set_services(known)
        ready.set()

        async def has_been_answered():
            """Who asks for all clusters and listeners is answered, if only with nothing new."""
            acknowledged = [kind.type for p in ads.proxies() for kind in p.resources if kind.acked_version]
            return acknowledged.count("cluster") == acknowledged.count("listener") == 2

        await eventually_true(has_been_answered)
        await say(b"", timeout=5)
        assert await envoy.stats(counters) == before
        # Envoy would take the same again in silence; what it said that it has is not even sent.
        sent = {kind.type for p in ads.proxies() for kind in p.resources if kind.sent_version}
        assert sent == {"cluster", "listener"}
        assert refusals(ads) == []


async def test_upstreams_come_and_go_without_a_failed_call_to_one_that_stays(
    serve, store, specs, open_envoy, open_echo, eventually_true, refusals
):
    caller, echo = specs["sidecar"], specs["exposed_health"]
    declared = store.current.declarations
    others = tuple(f"other-{number}" for number in range(20))
    async with (
        serve(store) as (ads, control),
        open_echo(),
        open_envoy(echo, control),
        open_envoy(caller, control) as envoy,
        open_way_out(caller) as say,
        open_way_out(caller, "other-1") as say_other,
    ):
        is_done = asyncio.Event()

        async def call_without_end():
            count = 0
            while not is_done.is_set():
                await say(b"", timeout=5)
                count += 1
            return count

        async with asyncio.TaskGroup() as group:
            calling = group.create_task(call_without_end())
            for upstreams in (("echo", *others), ("echo",), ("echo", *others[::2]), ("echo",)):
                store.set_declarations({**declared, "caller": Declaration("caller", "agent", upstreams)})

                async def is_there(upstreams=upstreams):
                    return set(await envoy.has("cluster")) == {*upstreams, names.APP_CLUSTER}

                await eventually_true(is_there)
            is_done.set()
        assert calling.result() > 0
        assert refusals(ads) == []
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await say_other(b"", timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
