"""Timeouts, retries, hedges, faults, bulkheads, ejection, health checks, load balancing, through real Envoys."""

import asyncio
from collections import Counter

import grpc
import pytest
from grpc_health.v1 import health_pb2

pytestmark = pytest.mark.asyncio(loop_scope="session")

OK, UNAVAILABLE, LATE = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED
WEB = {"protocol": "http1"}


def echo(**more):
    return {"services": {"echo": more}}


def routed(**route):
    return echo(routes=[{"name": "r", **route}])


def behave(world, how):
    for name in ("echo-1", "echo-2"):
        world.apps[name].behave = how


def tries(world):
    return sum(len(world.apps[name].requests) for name in ("echo-1", "echo-2"))


async def waits(_, context):
    await asyncio.sleep(2)  # longer than the timeouts below; without one the call would succeed


async def fails(_, context):
    await context.abort(grpc.StatusCode.UNAVAILABLE, "on purpose")


def first_time(world, do):
    async def once(_, context):
        if tries(world) == 1:
            await do(_, context)

    return once


async def test_a_timeout_ends_a_call_whatever_the_caller_would_wait(world):
    await world.apply(routed(timeout="100ms"))
    behave(world, waits)
    assert await world.code(timeout=5) is LATE
    assert await world.code(timeout=None) is LATE


async def test_a_timeout_of_the_service_holds_for_routes_that_have_none_and_0_takes_it_off(world):
    route = {"name": "r", "match": {"headers": {"x-long": "yes"}}, "timeout": 0}
    await world.apply(echo(timeout="100ms", routes=[route]))

    async def waits_a_little(_, context):
        await asyncio.sleep(0.3)

    behave(world, waits_a_little)
    assert await world.code() is LATE
    assert await world.code(metadata=(("x-long", "yes"),)) is OK


async def test_an_http_request_that_takes_too_long_is_a_gateway_timeout(world):
    await world.apply({"services": {"web": {"timeout": "100ms", **WEB}}})
    world.apps["web-1"].wait = 2
    async with world.get("/") as response:
        assert response.status == 504


async def test_an_idle_stream_is_ended(world):
    await world.apply(routed(idle_timeout="100ms"))
    stream = world.channel("echo.mesh").stream_stream("/echo.v1.Echo/Stream")(timeout=5)
    await stream.write(b"1")
    assert await stream.read() == b"1"
    with pytest.raises(grpc.aio.AioRpcError):
        await stream.read()


@pytest.mark.parametrize(("retry", "expected"), [({"attempts": 2, "on": ["unavailable"]}, 3), ({}, 1)])
async def test_a_failed_call_is_tried_again_as_often_as_the_document_says(world, retry, expected):
    await world.apply(routed(retry=retry) | {"defaults": {"circuit_breaker": {"min_retry_concurrency": 10}}})
    behave(world, fails)
    assert await world.code() is UNAVAILABLE
    assert tries(world) == expected


async def test_a_try_that_takes_too_long_is_tried_again(world):
    await world.apply(routed(retry={"attempts": 1, "on": ["reset"], "per_try_timeout": "100ms"}))
    behave(world, first_time(world, waits))
    assert await world.code() is OK
    assert tries(world) == 2


async def test_a_hedge_asks_again_and_takes_the_first_answer(world):
    await world.apply(routed(retry={"attempts": 1, "per_try_timeout": "100ms", "hedge": True}))

    async def waits_longer(_, context):
        await asyncio.sleep(0.4)

    ended = []

    async def once(_, context):
        if tries(world) == 1:
            await waits_longer(_, context)
            ended.append("the first")

    behave(world, once)
    assert await world.code() is OK
    assert tries(world) == 2
    assert ended == []


async def test_faults_are_for_those_who_ask_for_them(world):
    abort = {"abort": {"grpc": "DATA_LOSS"}, "headers": {"x-fault": "yes"}}
    await world.apply(routed(fault=abort))
    asked = (("x-fault", "yes"),)
    assert await world.code(metadata=asked) is grpc.StatusCode.DATA_LOSS
    assert await world.code() is OK
    await world.apply(routed(fault={"delay": {"duration": "5s"}, "headers": {"x-fault": "yes"}}))
    assert await world.code(metadata=asked, timeout=0.2) is LATE
    assert await world.code(timeout=2) is OK
    assert tries(world) == 2


async def test_faults_are_for_the_callers_that_are_named_and_for_their_share(world):
    await world.apply(echo(fault={"abort": {"grpc": "INTERNAL", "percent": 50}, "callers": ["gateway"]}))
    found = Counter([await world.code(caller="gateway") for _ in range(60)])
    assert 8 <= found[grpc.StatusCode.INTERNAL] <= 52
    assert {await world.code(caller="caller") for _ in range(20)} == {OK}


async def test_http_is_aborted_with_a_status_of_its_own(world):
    await world.apply({"services": {"web": {"fault": {"abort": {"http": 418}}, **WEB}}})
    async with world.get("/") as response:
        assert response.status == 418


async def test_a_bulkhead_refuses_what_is_above_it(world):
    await world.apply(echo(circuit_breaker={"max_requests": 2}))

    async def waits_a_little(_, context):
        await asyncio.sleep(0.2)

    behave(world, waits_a_little)
    found = Counter(await asyncio.gather(*(world.code() for _ in range(6))))
    assert found == {OK: 2, UNAVAILABLE: 4}


async def test_an_instance_that_fails_is_left_out(world, eventually):
    outlier = {"enabled": True, "consecutive_gateway_failures": 2, "interval": "50ms", "base_ejection_time": "20s"}
    await world.apply(echo(outlier_detection=outlier))
    world.apps["echo-1"].behave = fails
    await asyncio.gather(*(world.code() for _ in range(10)))

    async def is_left_out() -> bool:
        # Envoy's workers tell its main thread of failures, which may take a moment.
        world.apps["echo-1"].reset()
        world.apps["echo-1"].behave = fails
        codes = await asyncio.gather(*(world.code() for _ in range(10)))
        return set(codes) == {OK} and not world.apps["echo-1"].requests

    await eventually(is_left_out)


async def test_an_instance_above_its_share_of_failures_is_left_out(world, eventually):
    outlier = {
        "enabled": True,
        "failure_percentage": 50,
        "consecutive_gateway_failures": 0,
        "consecutive_local_failures": 0,
        "interval": "100ms",
        "base_ejection_time": "20s",
    }
    await world.apply(echo(outlier_detection=outlier))
    world.apps["echo-1"].behave = fails

    async def is_left_out():
        await asyncio.gather(*(world.code() for _ in range(60)))
        found = await world.envoys["caller"].stats("cluster.echo.outlier_detection.ejections_active")
        return list(found.values()) == [1]

    await eventually(is_left_out)


@pytest.mark.parametrize(
    ("service", "check"),
    [
        ("echo", {"kind": "grpc", "interval": "50ms", "timeout": "1s", "unhealthy_threshold": 1}),
        ("web", {"kind": "http", "path": "/healthz?deep=no", "interval": "50ms"}),
        ("echo", {"kind": "tcp", "interval": "50ms"}),
    ],
)
async def test_health_checks_go_through_although_nothing_else_is_allowed(world, service, check, eventually):
    protocol = WEB if service == "web" else {}
    document = {"services": {service: {"health_check": check, **protocol}}, "mesh": {"default_intention": "deny"}}
    caller = world.envoys["caller"]
    pattern = f"^cluster.{service}.health_check.(success|failure)$"
    success, failure = (f"cluster.{service}.health_check.{end}" for end in ("success", "failure"))
    before = await caller.stats(pattern)
    await world.apply(document)

    async def have_begun():
        return (await caller.stats(pattern)).get(success, 0) > before.get(success, 0)

    # The caller may hear of the checks a moment before the service's sidecar hears that it is to let them through.
    await eventually(have_begun)
    begun = await caller.stats(pattern)

    async def have_succeeded():
        found = await caller.stats(pattern)
        assert found[failure] == begun[failure]
        return found[success] >= begun[success] + 4

    await eventually(have_succeeded)


async def test_an_instance_that_says_that_it_does_not_serve_gets_no_calls(world, eventually):
    await world.apply(echo(health_check={"interval": "50ms", "unhealthy_threshold": 1}))
    await world.apps["echo-1"].health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    try:

        async def is_left_out():
            return await world.who(10) == {"echo-2": 10}

        await eventually(is_left_out)
    finally:
        await world.apps["echo-1"].health.set("", health_pb2.HealthCheckResponse.SERVING)


@pytest.mark.parametrize("policy", ["ring_hash", "maglev"])
async def test_a_hash_keeps_a_key_at_its_instance(world, policy):
    await world.apply(echo(load_balancing={"policy": policy, "hash_on": ["header:x-user", "source_ip"]}))
    homes = set()
    for number in range(12):
        found = await world.who(5, metadata=(("x-user", f"user-{number}"),))
        assert len(found) == 1
        homes |= set(found)
    assert homes == {"echo-1", "echo-2"}


@pytest.mark.parametrize(
    "balancing",
    [
        {"policy": "least_request", "choices": 5, "slow_start": "10s"},
        {"policy": "round_robin", "slow_start": "10s"},
        {"policy": "random", "locality": "ignore"},
        {"policy": "ring_hash", "hash_on": ["cookie:sid", "query:id"], "min_ring_size": 10, "max_ring_size": 100},
        {"policy": "maglev", "hash_on": ["source_ip"], "table_size": 101},
    ],
)
async def test_envoy_takes_each_way_of_balancing(world, balancing):
    await world.apply(echo(load_balancing=balancing))
    assert "backup-1" not in await world.who(10)


async def test_envoy_takes_bounds_of_connections_and_keeps_to_them(world):
    connections = {
        "connect_timeout": "500ms",
        "idle_timeout": "30s",
        "keepalive_interval": "7s",
        "keepalive_timeout": "3s",
        "max_requests_per_connection": 2,
    }
    await world.apply(echo(connections=connections))
    for _ in range(12):
        assert await world.code() is OK
    found = await world.envoys["caller"].stats("^cluster.echo.upstream_cx_max_requests$")
    assert sum(found.values()) >= 4


async def test_a_changed_cluster_fails_no_call_and_ends_no_stream(world):
    await world.apply()
    stream = world.channel("echo.mesh").stream_stream("/echo.v1.Echo/Stream")(timeout=20)
    is_done = asyncio.Event()

    async def call_without_end():
        found = Counter()
        while not is_done.is_set():
            found[await world.code()] += 1
        return found

    async with asyncio.TaskGroup() as group:
        calling = [group.create_task(call_without_end()) for _ in range(4)]
        for number in range(6):
            await world.apply(echo(connections={"connect_timeout": f"{number + 1}s"}))
            await stream.write(b"x")
            assert await stream.read() == b"x"
        is_done.set()
    assert {code for task in calling for code in task.result()} == {OK}
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
