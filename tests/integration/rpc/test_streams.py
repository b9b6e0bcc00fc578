"""Streams, cancellation and cleanup: what a call owes its caller when things break off."""

import asyncio
import json

import grpc
import pytest

from mesh.errors import InvalidInput, NotFound
from mesh.rpc import ServerSettings, error_from_rpc, open_server, open_target
from mesh.telemetry import configure_logs


def start(calls, kind):
    """A call of that kind whose handler is running, or will be."""
    match kind:
        case "unary":
            return calls.unary(b"1")
        case "server_stream":
            return calls.server_stream(b"1")
        case "client_stream":
            return calls.client_stream(iter([b"1"]))
        case _:
            return calls.both_stream(iter([b"1"]))


async def outcome(call):
    """The status of a call, after reading what comes before it."""
    try:
        if hasattr(call, "read"):
            while await call.read() is not grpc.aio.EOF:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as err:
        return err
    return None


KINDS = ["unary", "server_stream", "client_stream", "both_stream"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_caller_that_gives_up_ends_the_handler(serve, handlers, kind):
    begun, ended = asyncio.Event(), asyncio.Event()

    async def hang(request, context):
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def hang_stream(request, context):
        await hang(request, context)
        yield b""

    setattr(handlers, kind, hang_stream if kind in ("server_stream", "both_stream") else hang)
    async with serve() as (server, calls):
        call = start(calls, kind)
        await begun.wait()
        assert server.in_flight == 1
        call.cancel()
        await ended.wait()
    assert server.in_flight == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_an_error_arrives_whatever_the_kind_of_the_call(serve, handlers, kind):
    async def fail(request, context):
        raise InvalidInput("It is wrong.", field="rate", fix="Give another.")

    async def fail_stream(request, context):
        raise InvalidInput("It is wrong.", field="rate", fix="Give another.")
        yield b""

    setattr(handlers, kind, fail_stream if kind in ("server_stream", "both_stream") else fail)
    async with serve() as (_, calls):
        error = error_from_rpc(await outcome(start(calls, kind)))
    assert isinstance(error, InvalidInput)
    assert (error.field, error.fix) == ("rate", "Give another.")


@pytest.mark.parametrize("kind", KINDS)
async def test_the_correlation_id_is_returned_whatever_the_kind_of_the_call(serve, kind):
    async with serve() as (_, calls):
        call = start(calls, kind)
        assert await outcome(call) is None
        [first] = [value for name, value in await call.initial_metadata() if name == "x-correlation-id"]
        [last] = [value for name, value in await call.trailing_metadata() if name == "x-correlation-id"]
        assert first == last


async def test_a_handlers_own_metadata_leaves_room_for_the_correlation_id(serve, handlers):
    async def unary(request, context):
        await context.send_initial_metadata((("x-first", "1"),))
        context.set_trailing_metadata((("x-last", "2"),))
        if request == b"abort":
            await context.abort(grpc.StatusCode.DATA_LOSS, "gone", (("x-abort", "3"),))
        return b""

    handlers.unary = unary
    async with serve() as (_, calls):
        call = calls.unary(b"")
        await call
        assert dict(await call.initial_metadata()).keys() == {"x-first", "x-correlation-id"}
        assert dict(await call.trailing_metadata()).keys() == {"x-last", "x-correlation-id"}
        failed = await outcome(calls.unary(b"abort"))
        assert (failed.code(), failed.details()) == (grpc.StatusCode.DATA_LOSS, "gone")
        assert dict(failed.trailing_metadata()).keys() == {"x-abort", "x-correlation-id"}


@pytest.mark.parametrize("then", ["raise", "abort", "write", "return"])
@pytest.mark.parametrize("steps", range(6))
async def test_a_write_that_is_cancelled_hurts_neither_the_next_nor_the_status(serve, handlers, then, steps):
    async def both_stream(requests, context):
        writing = asyncio.ensure_future(context.write(b"x" * 100_000))
        for _ in range(steps):
            await asyncio.sleep(0)
        writing.cancel()
        await asyncio.wait([writing])
        match then:
            case "raise":
                raise NotFound("It is not here.")
            case "abort":
                await context.abort(grpc.StatusCode.NOT_FOUND, "It is not here.")
            case "write":
                await context.write(b"last")

    handlers.both_stream = both_stream
    async with serve() as (_, calls):
        call = calls.both_stream(iter([]))
        answers = []
        async with asyncio.timeout(5):
            try:
                while (answer := await call.read()) is not grpc.aio.EOF:
                    answers.append(answer)
            except grpc.aio.AioRpcError:
                pass
            code = await call.code()
    assert code is (grpc.StatusCode.NOT_FOUND if then in ("raise", "abort") else grpc.StatusCode.OK)
    assert [answer for answer in answers if len(answer) < 100_000] == ([b"last"] if then == "write" else [])


@pytest.mark.parametrize("how", ["abort", "raise"])
async def test_the_error_of_a_task_of_the_handler_is_that_of_the_call(serve, handlers, capfd, how):
    async def fail(context):
        if how == "abort":
            await context.abort(grpc.StatusCode.NOT_FOUND, "It is not here.")
        raise NotFound("It is not here.")

    async def server_stream(request, context):
        async with asyncio.TaskGroup() as group:
            group.create_task(fail(context))
        yield b""

    handlers.server_stream = server_stream
    configure_logs("test")
    async with serve() as (_, calls):
        failed = await outcome(calls.server_stream(b""))
    assert (failed.code(), failed.details()) == (grpc.StatusCode.NOT_FOUND, "It is not here.")
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [line["code"] for line in lines if line["event"] == "call_served"] == ["NOT_FOUND"]
    assert not [line for line in lines if line["event"] == "handler_failed"]


async def test_several_tasks_of_a_handler_may_write(serve, handlers):
    async def both_stream(requests, context):
        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(context.write(b"%d" % number))

    handlers.both_stream = both_stream
    async with serve() as (_, calls):
        answers = [answer async for answer in calls.both_stream(iter([]))]
    assert sorted(map(int, answers)) == list(range(20))


async def test_a_cancellation_that_is_not_of_the_call_is_an_error_and_no_silence(serve, handlers, capfd):
    async def unary(request, context):
        other = asyncio.ensure_future(asyncio.Event().wait())
        asyncio.get_running_loop().call_soon(other.cancel)
        await other

    handlers.unary = unary
    configure_logs("test")
    async with serve() as (_, calls):
        failed = await outcome(calls.unary(b"", timeout=5))
    assert failed.code() is grpc.StatusCode.INTERNAL
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert len([line for line in lines if line["event"] == "handler_failed"]) == 1


@pytest.mark.parametrize("how", ["returns", "writes", "raises"])
async def test_a_handler_that_goes_on_after_its_caller_has_gone_is_no_defect(serve, handlers, capfd, how):
    begun, ended = asyncio.Event(), asyncio.Event()

    async def server_stream(request, context):
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if how == "writes":
                await context.write(b"late")
            elif how == "raises":
                raise NotFound("Nobody is there.") from None
        finally:
            ended.set()

    handlers.server_stream = server_stream
    configure_logs("test")
    async with serve() as (_, calls):
        call = calls.server_stream(b"")
        await begun.wait()
        call.cancel()
        await ended.wait()
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert not [line for line in lines if line["event"] == "handler_failed"]


async def test_a_message_of_a_stream_that_is_too_large_ends_only_that_stream(serve, handlers):
    async def server_stream(request, context):
        yield b"small"
        yield b"x" * 20_000

    handlers.server_stream = server_stream
    async with serve(max_message_bytes=10_000) as (_, calls):
        assert await calls.unary(b"before") == b"before"
        down = calls.server_stream(b"")
        assert await down.read() == b"small"
        failed = await outcome(down)
        assert failed.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "20000 vs. 10000" in failed.details()
        failed = await outcome(calls.client_stream(iter([b"small", b"x" * 20_000])))
        assert failed.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "20000 vs. 10000" in failed.details()
        assert await calls.unary(b"after") == b"after"


async def test_handlers_that_are_cut_have_cleaned_up_when_the_server_is_closed(short_dir, handlers):
    begun, cleaned = asyncio.Event(), False

    async def unary(request, context):
        nonlocal cleaned
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(50):
                await asyncio.sleep(0)
            cleaned = True

    handlers.unary = unary
    target = f"unix:{short_dir}/s.sock"
    async with asyncio.timeout(20), open_target(target) as channel:
        settings = ServerSettings("test", target, drain_grace=0.05)
        async with open_server(settings, [], generic_handlers=[handlers.generic()]):
            call = channel.unary_unary("/test.v1.Test/Unary")(b"")
            await begun.wait()
        assert cleaned
        assert (await outcome(call)).code() is grpc.StatusCode.UNAVAILABLE


async def test_a_stream_that_sees_the_drain_ends_itself_and_new_calls_are_refused(short_dir, handlers):
    target = f"unix:{short_dir}/s.sock"
    async with asyncio.timeout(20), open_target(target) as channel:
        call = channel.stream_stream("/test.v1.Test/BothStream")()

        async def both_stream(requests, context):
            await context.write(b"up")
            await server.draining.wait()
            await context.write(b"bye")

        handlers.both_stream = both_stream
        settings = ServerSettings("test", target, drain_grace=10.0)
        async with open_server(settings, [], generic_handlers=[handlers.generic()]) as server:
            assert await call.read() == b"up"
        assert await call.read() == b"bye"
        assert await call.code() is grpc.StatusCode.OK
        refused = await outcome(channel.unary_unary("/test.v1.Test/Unary")(b"", timeout=5))
        assert refused.code() is grpc.StatusCode.UNAVAILABLE
