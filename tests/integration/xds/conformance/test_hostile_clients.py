"""Whatever a client sends, and whenever it goes: the others are served, and nothing of it stays behind."""

import asyncio
import contextlib
import gc
import random
import re
import tracemalloc

import grpc
import pytest

from mesh.rpc import open_target
from mesh.xds import names
from mesh.xds.descriptors import envoy_message
from mesh.xds.limits import MOST_NAMES

URLS = tuple(names.SHORT_NAMES)
REFUSALS = {"INVALID_ARGUMENT", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED"}
REQUESTS = {"delta": "DeltaDiscoveryRequest", "sotw": "DiscoveryRequest"}
SEEDS = range(4)


def word(rng):
    return rng.choice(
        [
            "",
            "*",
            "a",
            "nobody",
            "caller",
            "caller/caller-1",
            "other/other-1",
            "/",
            "a" * rng.choice([10, 1_000, 1_001, 50_000]),
            "\u0000",
            "\U0001f600 \u202e",
            "xdstp://authority/envoy.config.cluster.v3.Cluster/*?a=b#c",
            "".join(chr(rng.randrange(1, 0xD7FF)) for _ in range(8)),
        ]
    )


def random_request(rng, protocol):
    made = envoy_message(f"envoy.service.discovery.v3.{REQUESTS[protocol]}")()
    made.type_url = rng.choice([*URLS, "", "type.googleapis.com/envoy.config.core.v3.Node", word(rng)])
    words = [word(rng) for _ in range(rng.randrange(6))]
    if protocol == "delta":
        made.resource_names_subscribe.extend(words)
        made.resource_names_unsubscribe.extend(word(rng) for _ in range(rng.randrange(4)))
        made.initial_resource_versions.update({word(rng): word(rng) for _ in range(rng.randrange(3))})
    else:
        made.resource_names.extend(words)
        made.version_info = word(rng)
    if rng.random() < 0.5:
        made.response_nonce = rng.choice(["1", "2", "3", "0", "-1", word(rng)])
    if rng.random() < 0.3:
        made.error_detail.message = word(rng)
        made.error_detail.code = rng.randrange(-5, 30)
    return made


def give_node(rng, request):
    """Mostly the client's own, with facts about itself that no launcher would tell."""
    request.node.id = "caller/caller-1" if rng.random() < 0.8 else word(rng)
    request.node.user_agent_name = rng.choice(["gRPC C-core", "envoy", "", word(rng)])
    if rng.random() < 0.5:
        request.node.user_agent_build_version.version.major_number = rng.randrange(1 << 31)
    for key in ("outbound_socket", "secrets_dir", "inbound", "app_socket", "edge", "exposed_health"):
        if rng.random() < 0.7:
            value = rng.choice(["/tmp/x", "127.0.0.1:1", 7.5, True, None, float("nan"), {"a": [1]}, [], word(rng)])
            request.node.metadata.update({key: value})


def cut(rng, content):
    """A whole frame, a part of one, or one with other bytes in it."""
    how = rng.random()
    if how < 0.6 or not content:
        return content
    if how < 0.75:
        return content[: rng.randrange(len(content))]
    broken = bytearray(content)
    for _ in range(rng.randrange(1, 8)):
        broken[rng.randrange(len(broken))] = rng.randrange(256)
    return bytes(broken)


async def be_hostile(rng, client, protocol):
    """Say a few things, listen a little, and go."""
    with contextlib.suppress(TimeoutError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
        for position in range(rng.randrange(1, 8)):
            request = random_request(rng, protocol)
            if position == 0:
                give_node(rng, request)
            await client.call.write(cut(rng, request.SerializeToString()))
            if rng.random() < 0.3:
                async with asyncio.timeout(0.01):
                    await client.call.read()
        if rng.random() < 0.5:
            await client.call.done_writing()
            async with asyncio.timeout(5):
                while await client.call.read() is not grpc.aio.EOF:
                    pass
    client.cancel()


async def check_served(running, world, protocols):
    """A client of good manners gets what it asks for."""
    world.update(names.CLUSTER, "a")
    async with asyncio.timeout(10):
        while True:
            client = running.connect(protocols["delta"])
            try:
                await client.subscribe(names.CLUSTER, "a")
                assert (await client.take()).resources == world.has(names.CLUSTER, ("a",))
                return
            except grpc.aio.AioRpcError as err:
                # Some bytes make grpc.aio give up its server, and it takes a moment until there is another one.
                assert err.code() is grpc.StatusCode.UNAVAILABLE
                await asyncio.sleep(0.05)
            finally:
                client.cancel()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("protocol", REQUESTS)
async def test_random_requests_are_answered_or_refused_and_harm_nobody(
    running, world, protocols, protocol, seed, eventually, capfd
):
    rng = random.Random(seed)
    world.add("a", "b")
    for _ in range(60):
        await be_hostile(rng, running.connect(protocols[protocol]), protocol)
    await check_served(running, world, protocols)
    await eventually(lambda: running.ads.proxies() == ())
    said = capfd.readouterr().err
    assert "Traceback" not in said
    # A call that ends well is not logged.
    codes = set(re.findall(r'"code":"(\w+)"', said))
    assert codes & REFUSALS
    assert codes <= REFUSALS | {"CANCELLED"}


async def test_a_subscription_to_all_that_one_may_ask_for_holds_up_nobody(running, world, protocols):
    world.add("a", "b")
    for protocol in protocols:
        client = running.connect(protocols[protocol])
        for url in (names.CLUSTER, names.ENDPOINT):
            await client.subscribe(url, "a", *(f"n{number}" for number in range(MOST_NAMES - 1)))
        async with asyncio.timeout(10):
            found = {}
            while len(found) < 2:
                answer = await client.take()
                found |= {answer.url: answer.resources} if answer.resources else {}
            assert all(resources.keys() == {"a"} for resources in found.values())
            await check_served(running, world, protocols)


@contextlib.asynccontextmanager
async def open_bad_line(port, rng):
    """A way to the server that ends after some bytes, or hands on some of them wrongly."""
    pumping = set()

    async def carry(reader, writer, *, is_forward):
        left = rng.randrange(1, 3_000)
        try:
            while chunk := await reader.read(rng.choice([1, 10, 4096])):
                if is_forward and rng.random() < 0.05:
                    chunk = bytes(byte ^ rng.randrange(256) for byte in chunk)
                writer.write(chunk[:left])
                left -= len(chunk)
                if left <= 0:
                    break
                await writer.drain()
        except OSError:
            pass
        finally:
            (writer.transport.abort if rng.random() < 0.5 else writer.close)()

    async def serve(reader, writer):
        there, back = await asyncio.open_connection("127.0.0.1", port)
        for direction in (carry(reader, back, is_forward=True), carry(there, writer, is_forward=False)):
            task = asyncio.create_task(direction)
            pumping.add(task)
            task.add_done_callback(pumping.discard)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
    for task in tuple(pumping):
        task.cancel()
    await asyncio.gather(*pumping, return_exceptions=True)


async def talk_until_it_breaks(client):
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError, AssertionError):
        async with asyncio.timeout(0.3):
            await client.subscribe(names.CLUSTER)
            await client.subscribe(names.ENDPOINT, "a", "b")
            while True:
                await client.take()
    client.cancel()


@pytest.mark.parametrize("seed", SEEDS)
async def test_lines_that_break_or_garble_at_any_byte_harm_nobody(running, world, protocols, seed, eventually):
    rng = random.Random(seed)
    world.add("a", "b")

    async def one(protocol):
        async with open_bad_line(running.port, rng) as port, open_target(f"127.0.0.1:{port}") as channel:
            await talk_until_it_breaks(protocols[protocol](channel))

    await asyncio.gather(*(one(rng.choice(list(protocols))) for _ in range(20)))
    await check_served(running, world, protocols)
    await eventually(lambda: running.ads.proxies() == ())


async def test_what_is_no_http2_at_all_harms_nobody(running, world, protocols):
    rng = random.Random(1)
    world.add("a")
    for _ in range(20):
        _, writer = await asyncio.open_connection("127.0.0.1", running.port)
        with contextlib.suppress(OSError):
            writer.write(
                rng.choice([b"", b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", rng.randbytes(64)])
            )
            writer.write(rng.randbytes(rng.randrange(2_000)))
            await writer.drain()
        writer.transport.abort()
    await check_served(running, world, protocols)


async def test_nothing_is_left_of_clients_that_have_gone(running, world, protocols, eventually):
    """Tasks and memory are as they were before."""
    rng = random.Random(5)
    world.add("a", "b")

    async def crowd(count):
        for number in range(count):
            protocol = rng.choice(list(protocols))
            client = running.connect(protocols[protocol])
            await client.subscribe(names.CLUSTER, f"n{number}", "a")
            if number % 3:
                await client.read()
            await client.subscribe(names.ENDPOINT, *(f"{rng.random()}" for _ in range(200)))
            client.cancel()
        running.clients.clear()
        await eventually(lambda: running.ads.proxies() == ())
        await check_served(running, world, protocols)
        running.clients.clear()
        await eventually(lambda: running.ads.proxies() == ())
        gc.collect()

    tracemalloc.start()
    try:
        await crowd(100)
        tasks, (memory, _) = len(asyncio.all_tasks()), tracemalloc.get_traced_memory()
        await crowd(200)
        await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
        grown = tracemalloc.get_traced_memory()[0] - memory
    finally:
        tracemalloc.stop()
    # What one of them has asked for takes 40 kB.
    assert grown < 200_000, grown
