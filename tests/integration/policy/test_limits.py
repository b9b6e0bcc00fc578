"""What an instance takes: requests in a time, connections, requests at a time."""

import asyncio

import grpc
import pytest

pytestmark = pytest.mark.asyncio(loop_scope="session")

OK, EXHAUSTED = grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED
SLOWLY = {"requests": 2, "per": "1h"}
WEB = {"protocol": "http1"}


def one_instance(**more):
    return {"services": {"echo": {"subsets": {"one": {"version": "1.0"}}, "split": {"echo/one": 1}, **more}}}


async def codes(world, count, **kwargs):
    return [await world.code(**kwargs) for _ in range(count)]


async def test_a_rate_limit_holds_for_each_instance_and_changes_on_an_open_connection(world):
    await world.apply(one_instance(rate_limit=SLOWLY))
    assert await codes(world, 3) == [OK, OK, EXHAUSTED]
    assert await world.channel("echo.mesh").unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=5) == b"\x08\x01"
    await world.apply(one_instance(rate_limit={"requests": 1, "burst": 3, "per": "1h"}))
    assert await codes(world, 4) == [OK, OK, OK, EXHAUSTED]
    await world.apply(one_instance())
    assert await codes(world, 4) == [OK] * 4


async def test_a_rate_limit_per_connection_gives_each_caller_its_own(world):
    await world.apply(one_instance(rate_limit=SLOWLY | {"scope": "connection"}))
    assert await codes(world, 3) == [OK, OK, EXHAUSTED]
    assert await codes(world, 3, caller="gateway") == [OK, OK, EXHAUSTED]
    await world.apply(one_instance(rate_limit=SLOWLY | {"scope": "connection", "burst": 3}))
    assert await codes(world, 4) == [OK, OK, OK, EXHAUSTED]


async def test_a_rate_limit_of_a_route_comes_beside_that_of_the_service(world):
    route = {"name": "r", "match": {"headers": {"x-bulk": "yes"}}, "rate_limit": {"requests": 1, "per": "1h"}}
    await world.apply(one_instance(rate_limit={"requests": 4, "per": "1h"}, routes=[route]))
    bulk = (("x-bulk", "yes"),)
    assert await codes(world, 2, metadata=bulk) == [OK, EXHAUSTED]
    assert await codes(world, 3) == [OK, OK, EXHAUSTED]


async def test_a_rate_limit_of_a_route_holds_where_the_route_leads(world):
    route = {"name": "r", "match": {"path": {"prefix": "/echo"}}, "to": "backup", "rate_limit": SLOWLY}
    await world.apply({"services": {"echo": {"routes": [route]}}})
    assert await codes(world, 3) == [OK, OK, EXHAUSTED]
    assert await codes(world, 3, authority="backup.mesh") == [OK] * 3


async def test_a_rate_limit_of_a_route_holds_although_the_path_is_rewritten(world):
    route = {
        "name": "r",
        "match": {"path": {"prefix": "/v1/"}},
        "rewrite": {"prefix": "/v2/"},
        "rate_limit": {"requests": 1, "per": "1h"},
    }
    await world.apply({"services": {"web": {"routes": [route], **WEB}}})
    found = []
    for path in ("/v1/a?b=c", "/v1/a", "/v2/a"):
        async with world.get(path) as response:
            found.append(response.status)
    assert found == [200, 429, 200]


async def test_a_connection_limit_holds_for_new_connections_and_leaves_open_ones(world):
    await world.apply(one_instance())
    stream = world.channel("echo.mesh").stream_stream("/echo.v1.Echo/Stream")(timeout=20)
    await stream.write(b"1")
    assert await stream.read() == b"1"
    port = world.envoys["echo-1"].spec.inbound.port
    for most, is_open in ((1, False), (1000, True)):
        await world.apply(one_instance(connections={"max_inbound": most}))
        # One connection of the caller's sidecar counts already, unless it was closed for want of use.
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        try:
            ends = [asyncio.ensure_future(reader.read(1)) for reader, _ in held]
            done, _ = await asyncio.wait(ends, timeout=5 if not is_open else 0.2, return_when=asyncio.FIRST_COMPLETED)
            assert bool(done) is not is_open
            await asyncio.gather(*(end for end in ends if end in done), return_exceptions=True)
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
        finally:
            for _, writer in held:
                writer.close()
        await stream.write(b"2")
        assert await stream.read() == b"2"
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF


async def test_adaptive_concurrency_learns_and_refuses_what_is_too_much(world):
    adaptive = {"min_concurrency": 1, "max_concurrency": 2, "sample_window": "10ms", "measure_every": "1h"}
    await world.apply(one_instance(concurrency={"adaptive": adaptive}))
    gauge = await world.envoys["echo-1"].stats("adaptive_concurrency.gradient_controller.concurrency_limit")
    assert list(gauge.values()) == [1]

    async def wait(_, context):
        await asyncio.sleep(0.2)

    world.apps["echo-1"].behave = wait
    found = await asyncio.gather(*(world.code() for _ in range(10)))
    assert OK in found
    assert grpc.StatusCode.UNAVAILABLE in found
    world.apps["echo-1"].behave = None
    await world.apply(one_instance())
    assert set(await asyncio.gather(*(world.code() for _ in range(10)))) == {OK}
