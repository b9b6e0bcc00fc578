"""open_server and open_target against each other: everything that every call of the mesh gets."""

import asyncio
import json

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh.errors import NotFound
from mesh.rpc import ServerSettings, call_context, error_from_rpc, open_server
from mesh.telemetry import configure_logs, correlation_id

SERVING = health_pb2.HealthCheckResponse.SERVING


async def test_all_four_kinds_of_calls_work(serve):
    async with serve() as (_, calls):
        assert await calls.unary(b"a") == b"a"
        assert [answer async for answer in calls.server_stream(b"3")] == [b"0", b"1", b"2"]
        assert await calls.client_stream(iter([b"a", b"b"])) == b"ab"
        assert [answer async for answer in calls.both_stream(iter([b"a", b"b"]))] == [b"a", b"b"]


async def test_a_handlers_error_arrives_with_its_details(serve, handlers):
    async def unary(request, context):
        raise NotFound("There is no such thing.", field="name", fix="Look again.")

    async def server_stream(request, context):
        yield b"first"
        raise NotFound("There is no more.")

    handlers.unary, handlers.server_stream = unary, server_stream
    async with serve() as (_, calls):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await calls.unary(b"")
        error = error_from_rpc(caught.value)
        assert isinstance(error, NotFound)
        assert (error.field, error.fix, error.service) == ("name", "Look again.", "test")
        answers = []
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            answers.extend([answer async for answer in calls.server_stream(b"")])
        assert isinstance(error_from_rpc(caught.value), NotFound)


async def test_an_unexpected_error_is_logged_once_and_tells_the_caller_nothing(serve, handlers, capfd):
    async def unary(request, context):
        raise RuntimeError("the password is 123")

    handlers.unary = unary
    configure_logs("test")
    async with serve() as (_, calls):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await calls.unary(b"")
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "password" not in str(caught.value)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if "handler_failed" in line]
    assert len(lines) == 1
    assert "the password is 123" in json.dumps(lines[0])


@pytest.mark.parametrize("given", ["mine-1", "", "two words", "x" * 129])
async def test_a_correlation_id_is_taken_or_made_then_returned_logged_and_passed_on(serve, handlers, capfd, given):
    seen = []

    async def unary(request, context):
        seen.append((call_context().correlation_id, correlation_id.get()))
        if request == b"again":
            return b""
        return await calls.unary(b"again")

    handlers.unary = unary
    configure_logs("test", level="debug")
    async with serve() as (_, calls):
        call = calls.unary(b"once", metadata=[("x-correlation-id", given)])
        await call
        returned = dict(await call.initial_metadata())["x-correlation-id"]
        assert dict(await call.trailing_metadata())["x-correlation-id"] == returned
    if given == "mine-1":
        assert returned == given
    else:
        assert returned != given
        assert len(returned) == 32
    assert set(seen) == {(returned, returned)}
    assert len(seen) == 2
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if "call_served" in line]
    assert [line["correlation_id"] for line in lines] == [returned, returned]
    assert all({"ts", "level", "method", "code", "duration_ms"} <= line.keys() for line in lines)


@pytest.mark.parametrize("deadline", ["the default", "the caller's"])
async def test_a_handler_that_overruns_is_ended(serve, handlers, capfd, deadline):
    ended = asyncio.Event()

    async def unary(request, context):
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    handlers.unary = unary
    configure_logs("test")
    async with serve(default_deadline=0.1 if deadline == "the default" else 60.0) as (_, calls):
        bare = calls.channel._inner.unary_unary("/test.v1.Test/Unary")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await bare(b"", timeout=None if deadline == "the default" else 0.1)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await ended.wait()
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [line["code"] for line in lines if line["event"] == "call_served"] == ["DEADLINE_EXCEEDED"]
    assert not [line for line in lines if line["event"] == "handler_failed"]


async def test_what_is_left_of_the_deadline_is_passed_on(serve, handlers):
    left = {}

    async def unary(request, context):
        left[request] = call_context().deadline
        if request == b"near":
            await calls.unary(b"plain")
            await calls.unary(b"shorter", timeout=2.0)
            await calls.unary(b"longer", timeout=600.0)
            assert [answer async for answer in calls.server_stream(b"2")] == [b"0", b"1"]
        return b""

    async def server_stream(request, context):
        left[b"stream"] = call_context().deadline
        for number in range(int(request)):
            yield b"%d" % number

    handlers.unary, handlers.server_stream = unary, server_stream
    async with serve() as (_, calls):
        await calls.unary(b"near", timeout=10.0)
        await calls.server_stream(b"1").read()
    assert left.pop(b"shorter") < 2.5
    assert left.pop(b"stream") is None  # outside of a handler a stream has no deadline
    assert set(left) == {b"near", b"plain", b"longer"}
    assert all(5 < seconds < 10.5 for seconds in left.values())


async def test_a_handler_whose_deadline_is_over_can_still_call_to_clean_up(serve, handlers):
    cleaned = asyncio.Event()

    async def unary(request, context):
        if request == b"clean up":
            cleaned.set()
            return b""
        try:
            await asyncio.Event().wait()
        finally:
            await calls.unary(b"clean up", timeout=10.0)

    handlers.unary = unary
    async with serve() as (_, calls):
        with pytest.raises(grpc.aio.AioRpcError):
            await calls.unary(b"hang", timeout=0.1)
        await cleaned.wait()


async def test_a_call_without_a_deadline_gets_the_default_and_one_with_keeps_its_own(serve, handlers):
    seen = []

    async def unary(request, context):
        seen.append(call_context().deadline)
        if request == b"hang":
            await asyncio.Event().wait()
        return b""

    handlers.unary = unary
    async with serve(default_deadline=0.2) as (_, calls):
        bare = calls.channel._inner.unary_unary("/test.v1.Test/Unary")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await bare(b"hang")
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "default of 0.2 s" in caught.value.details()
        await bare(b"", timeout=10)
    assert seen[0] <= 0.2
    assert 5 < seen[1] < 10.5  # gRPC rounds up what it sends


async def test_calls_beyond_the_limit_are_refused_while_health_still_answers(serve, handlers):
    release = asyncio.Event()

    async def unary(request, context):
        await release.wait()
        return b"done"

    handlers.unary = unary
    async with serve(max_concurrent=3) as (server, calls):
        waiting = [asyncio.ensure_future(calls.unary(b"")) for _ in range(3)]
        while server.in_flight < 3:
            await asyncio.sleep(0.005)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await calls.unary(b"")
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error_from_rpc(caught.value).retryable
        health = health_pb2_grpc.HealthStub(calls.channel)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == SERVING
        release.set()
        assert await asyncio.gather(*waiting) == [b"done"] * 3
        assert await calls.unary(b"") == b"done"


async def test_a_message_that_is_too_large_is_refused_either_way_and_the_connection_lives_on(serve, handlers):
    async def unary(request, context):
        return b"x" * int(request)

    handlers.unary = unary
    async with serve(max_message_bytes=10_000) as (_, calls):
        for request in (b"1" * 20_000, b"20000"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await calls.unary(request)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await calls.unary(b"10") == b"x" * 10


async def test_an_old_connection_makes_room_for_a_new_one_and_its_calls_go_on():
    """So that a client comes with the certificate that it has by then."""
    peers = []

    async def say(request, context):
        peers.append(context.peer())
        return request

    async def stay(requests, context):
        async for request in requests:
            await context.write(request)

    handlers = {
        "Say": grpc.unary_unary_rpc_method_handler(say),
        "Stay": grpc.stream_stream_rpc_method_handler(stay),
    }
    handler = grpc.method_handlers_generic_handler("age.v1.Age", handlers)
    settings = ServerSettings("age", "127.0.0.1:0", max_connection_age=0.2, drain_grace=0.1)
    async with asyncio.timeout(20), open_server(settings, [], generic_handlers=[handler]) as server:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            stream = channel.stream_stream("/age.v1.Age/Stay")()
            await stream.write(b"a")
            assert await stream.read() == b"a"
            while len(set(peers)) < 2:
                assert await channel.unary_unary("/age.v1.Age/Say")(b"b", wait_for_ready=True) == b"b"
            await stream.write(b"c")
            assert await stream.read() == b"c"
            stream.cancel()
