"""The ADS server over real gRPC, against clients that a test writes by hand."""

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta

import grpc
import pytest

from mesh.model import Declaration, Instance, SpiffeId
from mesh.rpc import ServerSettings, open_server, open_target
from mesh.state import MeshState, StateStore
from mesh.xds import AdsServer, limits, names
from mesh.xds.descriptors import envoy_message

DELTA = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
STATE = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
KINDS = {short: url for url, short in names.SHORT_NAMES.items()}


def identity_in_metadata(context):
    """Stands for the certificate: TLS is tested where the whole mesh is."""
    who = dict(context.invocation_metadata())["who"]
    return SpiffeId("mesh.test", "default", who)


def instance(service, number=1):
    return Instance(service, f"{service}-{number}", "127.0.0.1", 20_000 + number)


def state_of(services, declarations):
    return MeshState(
        "mesh.test",
        services={name: (instance(name),) for name in services},
        declarations={name: Declaration(name, "service", upstreams) for name, upstreams in declarations.items()},
    )


class Client:
    """A proxy that speaks delta and acknowledges all that it gets."""

    def __init__(self, channel, service, *, node=None):
        self._call = channel.stream_stream(
            DELTA,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=envoy_message("envoy.service.discovery.v3.DeltaDiscoveryResponse").FromString,
        )(metadata=[("who", service)])
        self.node = node or f"{service}/{service}-1"
        self.has = {}
        self.state = ""
        self.messages = 0
        self._is_first = True

    async def ask(self, kind, *, subscribe=(), nonce="", initial=None):
        request = envoy_message("envoy.service.discovery.v3.DeltaDiscoveryRequest")(
            type_url=KINDS[kind],
            resource_names_subscribe=subscribe,
            response_nonce=nonce,
            initial_resource_versions=initial or {},
        )
        if self._is_first:
            self._is_first = False
            request.node.id = self.node
            request.node.metadata.update({"outbound_socket": "/tmp/o.sock", "secrets_dir": "/tmp/s"})
        await self._call.write(request)

    async def read(self):
        response = await self._call.read()
        assert response is not grpc.aio.EOF
        self.messages += 1
        self.state = response.system_version_info
        kind = names.SHORT_NAMES[response.type_url]
        held = self.has.setdefault(kind, {})
        held.update({resource.name: resource.version for resource in response.resources})
        for name in response.removed_resources:
            held.pop(name, None)
        await self.ask(kind, nonce=response.nonce)
        return kind, sorted(resource.name for resource in response.resources)

    async def settle(self, upstreams):
        """Ask for everything as Envoy does, and read until it is there."""
        await self.ask("cluster")
        await self.read()
        await self.ask("endpoint", subscribe=sorted(upstreams))
        await self.ask("listener")
        await self.ask("route", subscribe=["outbound"])
        while len(self.has.get("endpoint", {})) < len(upstreams) or "route" not in self.has:
            await self.read()

    def cancel(self):
        self._call.cancel()


@pytest.fixture
def serving():
    @contextlib.asynccontextmanager
    async def serving(store, **more):
        ads = AdsServer(store, identity_of=identity_in_metadata, **more)
        settings = ServerSettings("control-plane", "127.0.0.1:0", max_concurrent=1000)
        async with open_server(settings, [], generic_handlers=[ads.handler]) as server, asyncio.timeout(30):
            running = asyncio.create_task(ads.run())
            try:
                async with open_target(f"127.0.0.1:{server.port}") as channel:
                    yield ads, channel
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

    return serving


async def test_a_proxy_gets_its_upstreams_and_no_others(serving):
    store = StateStore(state_of(["echo", "other"], {"caller": ("echo",), "echo": (), "other": ()}))
    async with serving(store) as (ads, channel):
        client = Client(channel, "caller")
        await client.settle(["echo"])
        assert set(client.has["cluster"]) == {"echo"}
        assert set(client.has["endpoint"]) == {"echo"}
        (status,) = ads.proxies()
        assert (status.node_id, status.protocol) == ("caller/caller-1", "delta")


@pytest.mark.parametrize("node", ["other/other-1", "", "caller", "/caller-1", "caller2/caller-1"])
async def test_a_node_of_another_service_is_refused_and_gets_nothing(serving, node, capfd):
    from mesh.telemetry import configure_logs

    configure_logs("test")
    store = StateStore(state_of(["echo"], {"caller": ("echo",), "other": ("echo",)}))
    async with serving(store) as (ads, channel):
        client = Client(channel, "caller", node=node or " ")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.ask("cluster")
            await client.read()
        assert caught.value.code() in {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT}
        assert client.has == {}
        assert ads.proxies() == ()
    assert "node_refused" in capfd.readouterr().err


async def test_a_change_reaches_those_who_need_it_and_nobody_else(serving):
    """200 services, 50 proxies, five of which call the one that changes."""
    services = [f"s{number}" for number in range(200)]
    declarations = {f"c{number}": (services[number], services[number % 10 + 100]) for number in range(50)}
    store = StateStore(state_of(services, declarations))
    async with serving(store) as (_, channel):
        clients = [Client(channel, name) for name in declarations]
        for client, upstreams in zip(clients, declarations.values(), strict=True):
            await client.settle(upstreams)
        changed = dict(store.current.services)
        changed["s100"] = (instance("s100"), instance("s100", 2))
        store.set_services(changed)
        concerned = [client for client, ups in zip(clients, declarations.values(), strict=True) if "s100" in ups]
        assert len(concerned) == 5
        assert [await client.read() for client in concerned] == [("endpoint", ["s100"])] * 5
        # Whatever else had been sent would come before what is sent now: something of its own to each.
        before = [client.messages for client in clients]
        for number in range(50):
            changed[services[number]] = (instance(services[number]), instance(services[number], 2))
        store.set_services(dict(changed))
        assert [await client.read() for client in clients] == [("endpoint", [services[n]]) for n in range(50)]
        assert [client.messages for client in clients] == [count + 1 for count in before]


async def test_a_client_that_does_not_read_holds_up_nobody(serving):
    store = StateStore(state_of(["echo"], {"slow": ("echo",), "quick": ("echo",)}))
    async with serving(store) as (_, channel):
        slow, quick = Client(channel, "slow"), Client(channel, "quick")
        await slow.settle(["echo"])
        await quick.settle(["echo"])
        for number in range(2, 200):
            store.set_services({"echo": (instance("echo"), instance("echo", number))})
            assert await quick.read() == ("endpoint", ["echo"])


async def test_a_new_stream_with_what_the_client_has_gets_only_what_changed_meanwhile(serving):
    declarations = {"caller": ("echo", "other"), "echo": (), "other": ()}
    store = StateStore(state_of(["echo", "other"], declarations))
    async with serving(store) as (_, channel):
        client = Client(channel, "caller")
        await client.settle(["echo", "other"])
        client.cancel()
    # Another control plane, with another content for one of the two.
    restarted = StateStore(state_of(["echo", "other"], declarations))
    restarted.set_services({"echo": (instance("echo", 7),), "other": (instance("other"),)})
    async with serving(restarted) as (_, channel):
        again = Client(channel, "caller")
        await again.ask("cluster", initial=client.has["cluster"])
        await again.ask("endpoint", subscribe=["echo", "other"], initial=client.has["endpoint"])
        await again.ask("listener", initial=client.has["listener"])
        await again.ask("route", subscribe=["outbound"], initial=client.has["route"])
        sent = []
        while ("endpoint", ["echo"]) not in sent:
            sent.append(await again.read())
        assert [found for _, found in sent if found] == [["echo"]]


async def test_nothing_is_said_before_the_registry_has_answered(serving):
    ready = asyncio.Event()
    store = StateStore(state_of([], {"caller": ("echo",)}))
    async with serving(store, ready=ready) as (_, channel):
        client = Client(channel, "caller")
        await client.ask("cluster")
        await client.ask("endpoint", subscribe=["echo"])
        reading = asyncio.create_task(client.read())
        done, _ = await asyncio.wait({reading}, timeout=0.2)
        assert not done
        store.set_services({"echo": (instance("echo"),)})
        ready.set()
        assert await reading == ("cluster", ["echo"])
        assert await client.read() == ("endpoint", ["echo"])


async def test_garbage_ends_the_stream_that_sent_it_and_no_other(serving):
    store = StateStore(state_of(["echo"], {"caller": ("echo",)}))
    async with serving(store) as (_, channel):
        good = Client(channel, "caller")
        await good.settle(["echo"])
        for method in (DELTA, STATE):
            bad = channel.stream_stream(method)(metadata=[("who", "caller")])
            with pytest.raises(grpc.aio.AioRpcError):
                await bad.write(b"\xff" * 100)
                assert await bad.read() is not grpc.aio.EOF
        store.set_services({"echo": (instance("echo"), instance("echo", 2))})
        assert await good.read() == ("endpoint", ["echo"])


async def test_a_state_of_the_world_client_is_answered_name_by_name(serving):
    store = StateStore(state_of(["echo"], {"caller": ("echo",)}))
    message = envoy_message("envoy.service.discovery.v3.DiscoveryRequest")
    async with serving(store) as (_, channel):
        call = channel.stream_stream(
            STATE,
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=envoy_message("envoy.service.discovery.v3.DiscoveryResponse").FromString,
        )(metadata=[("who", "caller")])

        async def ask(kind, name, response=None):
            request = message(type_url=KINDS[kind], resource_names=[name])
            request.node.id = "caller/caller-1"
            request.node.user_agent_name = "gRPC C-core"
            if response is not None:
                request.version_info, request.response_nonce = response.version_info, response.nonce
            await call.write(request)

        for kind in ("listener", "route", "cluster", "endpoint"):
            await ask(kind, "echo")
            response = await call.read()
            assert (response.type_url, len(response.resources)) == (KINDS[kind], 1)
            await ask(kind, "echo", response)
        store.set_services({"echo": (instance("echo"), instance("echo", 2))})
        assert (await call.read()).type_url == KINDS["endpoint"]
        call.cancel()


def ports_of(resource):
    message = envoy_message("envoy.config.endpoint.v3.ClusterLoadAssignment").FromString(resource.resource.value)
    return [it.endpoint.address.socket_address.port_value for place in message.endpoints for it in place.lb_endpoints]


async def test_who_stops_to_read_costs_nothing_and_gets_only_the_newest_when_it_reads_again(serving):
    """What a client does not take is neither kept for it nor made: there is one response, of the newest state."""
    services = [f"s{number}" for number in range(80)]
    store = StateStore(state_of(services, {"slow": tuple(services), "quick": ("s0",)}))
    async with serving(store) as (_, channel):
        slow, quick = Client(channel, "slow"), Client(channel, "quick")
        await slow.settle(services)
        await quick.settle(["s0"])
        for number in range(2, 50):
            changed = {name: (instance(name, number),) for name in services}
            store.set_services(changed)
            assert await quick.read() == ("endpoint", ["s0"])
        seen = []
        while 20_049 not in seen:
            response = await slow._call.read()
            seen.append(ports_of(next(it for it in response.resources if it.name == "s0"))[0])
            await slow.ask("endpoint", nonce=response.nonce)
        assert len(seen) <= 2, f"{len(seen)} of 48 changes were kept for it"


async def test_a_single_change_goes_at_once_and_a_burst_is_gathered(serving):
    store = StateStore(state_of(["echo"], {"caller": ("echo",)}))
    async with serving(store) as (_, channel):
        client = Client(channel, "caller")
        await client.settle(["echo"])
        store.set_services({"echo": (instance("echo", 2),)})
        assert await client.read() == ("endpoint", ["echo"])
        before = client.messages
        for number in range(3, 203):
            store.set_services({"echo": (instance("echo", number),)})
            await asyncio.sleep(0)
        version = store.current.version
        while client.state != version:
            await client.read()
        assert client.messages - before < 20


async def test_a_round_of_many_proxies_lets_others_have_their_turn(serving):
    """While a change spreads to many, the event loop is free again and again."""
    store = StateStore(state_of(["echo"], {"caller": ("echo",)}))
    async with serving(store) as (ads, channel):
        clients = [Client(channel, "caller", node=f"caller/caller-{number}") for number in range(60)]
        for client in clients:
            await client.settle(["echo"])
        turns = 0

        async def count():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        store.set_services({"echo": (instance("echo", 2),)})
        first = turns
        assert await clients[-1].read() == ("endpoint", ["echo"])
        assert turns > first + 2
        counting.cancel()
        assert len(ads.proxies()) == len(clients)


async def test_a_stream_ends_before_its_certificate_does_and_without_an_error(serving):
    soon = datetime.now(UTC) + timedelta(seconds=0.4)
    store = StateStore(state_of(["echo"], {"caller": ("echo",)}))
    async with serving(store, expiry_of=lambda context: soon) as (ads, channel):
        client = Client(channel, "caller")
        await client.settle(["echo"])
        assert await client._call.read() is grpc.aio.EOF
        assert await client._call.code() is grpc.StatusCode.OK
        assert datetime.now(UTC) < soon + timedelta(seconds=5)
        assert ads.proxies() == ()


async def test_no_stream_begins_with_a_certificate_that_has_expired(serving):
    store = StateStore(state_of(["echo"], {"caller": ("echo",)}))
    async with serving(store, expiry_of=lambda context: datetime.now(UTC)) as (_, channel):
        client = Client(channel, "caller")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.ask("cluster")
            await client.read()
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "has expired" in caught.value.details()


async def test_an_identity_has_so_many_streams_and_others_are_not_hurt(serving, monkeypatch):
    monkeypatch.setattr(limits, "MOST_STREAMS", 2)
    store = StateStore(state_of(["echo"], {"greedy": ("echo",), "modest": ("echo",)}))
    async with serving(store) as (ads, channel):
        first, second = (Client(channel, "greedy", node=f"greedy/{number}") for number in range(2))
        await first.settle(["echo"])
        await second.settle(["echo"])
        third = Client(channel, "greedy", node="greedy/3")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await third.ask("cluster")
            await third.read()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "2 streams already" in caught.value.details()
        await Client(channel, "modest").settle(["echo"])
        first.cancel()
        while len(ads.proxies()) > 2:
            await asyncio.sleep(0.01)
        await Client(channel, "greedy", node="greedy/4").settle(["echo"])


async def test_many_that_connect_at_once_all_get_what_they_need(serving):
    store = StateStore(state_of(["echo"], {"caller": ("echo",)}))
    async with serving(store) as (ads, channel):
        clients = [Client(channel, "caller", node=f"caller/caller-{number}") for number in range(80)]
        await asyncio.gather(*(client.settle(["echo"]) for client in clients))
        assert len(ads.proxies()) == 80
