"""Servers that misbehave: each fault costs only the call that it belongs to, and says what it was."""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from agentmesh.mcp.v1 import mcp_bridge_service_pb2 as pb
from mesh.rpc import error_from_rpc
from mesh.runtime import Backoff

LIMIT = 256 * 1024


@contextlib.asynccontextmanager
async def failing_with(code: grpc.StatusCode, *words: str) -> AsyncIterator[None]:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        yield
    assert failed.value.code() is code, failed.value
    error = error_from_rpc(failed.value)
    for word in words:
        assert word in f"{error.reason}: {error}"


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


@pytest.fixture
async def bridge(open_bridge: Any, server_command: Any) -> AsyncIterator[Any]:
    async with open_bridge(server_command("naughty_server"), max_frame_bytes=LIMIT) as bridge:
        yield bridge


async def test_a_hung_call_ends_at_its_deadline_and_others_go_on(bridge: Any) -> None:
    hung = asyncio.create_task(bridge.text("hang", timeout=1.0))
    for n in range(10):
        assert await bridge.text("ok", json.dumps({"n": n}).encode()) == f"ok {n}"
    async with failing_with(grpc.StatusCode.DEADLINE_EXCEEDED):
        await hung
    assert json.loads(await bridge.text("seen"))[-1] == "notifications/cancelled"


async def test_a_crash_fails_the_calls_in_flight_with_what_was_said_and_the_next_call_works(bridge: Any) -> None:
    first = await bridge.text("pid")
    hung = [bridge.stub.CallTool(pb.CallToolRequest(name="hang"), timeout=20) for _ in range(3)]
    for call in hung:
        assert (await call.read()).WhichOneof("event") == "progress"
    async with failing_with(grpc.StatusCode.UNAVAILABLE, "exited with code 3", "disk on fire"):
        await bridge.text("crash")
    for call in hung:
        async with failing_with(grpc.StatusCode.UNAVAILABLE, "disk on fire"):
            await call.read()
    assert await bridge.text("pid") != first


async def test_a_killed_server_is_told_by_its_signal(bridge: Any) -> None:
    async with failing_with(grpc.StatusCode.UNAVAILABLE, "signal 9"):
        await bridge.text("kill")


async def test_lines_that_are_not_json_rpc_are_skipped(bridge: Any) -> None:
    assert await bridge.text("non_json") == "still fine"
    assert await bridge.text("ok") == "ok "


async def test_an_answer_that_is_not_json_rpc_fails_its_call_at_once(bridge: Any) -> None:
    async with failing_with(grpc.StatusCode.RESOURCE_EXHAUSTED, "not a valid JSON-RPC message"):
        await bridge.text("bad_answer")
    assert await bridge.text("ok") == "ok "


async def test_an_answer_of_the_wrong_shape_is_an_internal_error(bridge: Any) -> None:
    async with failing_with(grpc.StatusCode.INTERNAL, "content is not a list"):
        await bridge.text("bad_shape")
    async with failing_with(grpc.StatusCode.INTERNAL, "MCP_BAD_ANSWER"):
        await bridge.text("nan")


@pytest.mark.parametrize("tool", ["oversize", "oversize_id_last"])
async def test_an_oversized_answer_fails_its_call_at_once_and_no_other(bridge: Any, tool: str) -> None:
    hung = asyncio.create_task(bridge.text("hang", timeout=3.0))
    async with failing_with(grpc.StatusCode.RESOURCE_EXHAUSTED, str(LIMIT)):
        await bridge.text(tool, json.dumps({"size": 3 * LIMIT}).encode())
    assert len(await bridge.text("oversize", json.dumps({"size": LIMIT // 2}).encode())) == LIMIT // 2
    assert not hung.done()
    hung.cancel()


async def test_an_oversized_line_of_nobody_is_dropped(bridge: Any) -> None:
    assert await bridge.text("oversize_unknown", b'{"size": 5000000}') == "after the flood"


async def test_oversized_arguments_are_refused(bridge: Any) -> None:
    async with failing_with(grpc.StatusCode.INVALID_ARGUMENT, "--max-frame-bytes"):
        await bridge.text("ok", json.dumps({"n": "x" * LIMIT}).encode())


async def test_answers_to_unknown_ids_are_ignored(bridge: Any) -> None:
    assert await bridge.text("unknown_ids") == "mine"


async def test_an_id_given_back_as_a_string_is_understood(bridge: Any) -> None:
    outcome = await bridge.call("string_id")
    assert not outcome.result.content


async def test_a_flood_on_stderr_blocks_nothing_and_takes_no_memory(bridge: Any) -> None:
    before = _rss()
    assert await bridge.text("stderr_flood", b'{"lines": 20000}', timeout=30) == "flooded"
    assert _rss() - before < 12_000_000


async def test_content_of_an_unknown_kind_arrives_as_json(bridge: Any) -> None:
    outcome = await bridge.call("other_content")
    assert json.loads(outcome.result.content[0].other) == {
        "type": "hologram",
        "beam": 12345678901234567890,
        "_meta": {"a": 1},
    }


async def test_vendor_capabilities_arrive_unchanged(bridge: Any) -> None:
    server = (await bridge.stub.GetServer(pb.GetServerRequest())).server
    assert json.loads(server.capabilities)["x-vendor"] == {"big": 2**70}


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (-32603, grpc.StatusCode.INTERNAL),
        (-32002, grpc.StatusCode.NOT_FOUND),
        (-32601, grpc.StatusCode.UNIMPLEMENTED),
        (-32042, grpc.StatusCode.FAILED_PRECONDITION),
        (4711, grpc.StatusCode.FAILED_PRECONDITION),
    ],
)
async def test_error_codes_become_statuses(open_bridge: Any, bridge: Any, code: int, status: grpc.StatusCode) -> None:
    # `code` is not in the server's list, so that only codes which cannot mean "unknown tool" keep their meaning.
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await bridge.text("code", json.dumps({"code": code}).encode())
    expected = status
    if code in (-32603, 4711):
        expected = grpc.StatusCode.NOT_FOUND
    assert failed.value.code() is expected


async def test_a_server_that_asks_its_caller_gets_an_error_and_goes_on(bridge: Any) -> None:
    assert json.loads(await bridge.text("ask")) == -32600


async def test_a_server_that_stops_reading_is_no_trouble_for_callers_with_deadlines(bridge: Any) -> None:
    assert await bridge.text("deaf") == "bye"
    big = json.dumps({"n": "x" * (LIMIT // 2)}).encode()
    started = time.monotonic()
    outcomes = await asyncio.gather(*(bridge.text("ok", big, timeout=1.0) for _ in range(5)), return_exceptions=True)
    assert {outcome.code() for outcome in outcomes} == {grpc.StatusCode.DEADLINE_EXCEEDED}
    assert time.monotonic() - started < 5


async def test_a_server_that_closes_its_stdout_is_restarted(bridge: Any) -> None:
    first = await bridge.text("pid")
    assert await bridge.text("mute") == "bye"
    with contextlib.suppress(grpc.aio.AioRpcError):
        await bridge.text("ok")
    assert await bridge.text("pid", timeout=15) != first


async def test_a_watch_ends_when_the_server_is_lost(bridge: Any) -> None:
    watch = bridge.stub.Watch(pb.WatchRequest(), timeout=20)
    assert (await watch.read()).WhichOneof("event") == "ready"
    with contextlib.suppress(grpc.aio.AioRpcError):
        await bridge.text("crash")
    async with failing_with(grpc.StatusCode.UNAVAILABLE, "disk on fire"):
        await watch.read()


async def test_a_watch_ends_when_the_bridge_drains(bridge: Any) -> None:
    watch = bridge.stub.Watch(pb.WatchRequest(), timeout=20)
    await watch.read()
    bridge.draining.set()
    async with failing_with(grpc.StatusCode.UNAVAILABLE, "shutting down"):
        await watch.read()


async def test_a_server_that_exits_at_once_is_told_with_its_words_until_it_recovers(
    open_bridge: Any, server_command: Any, tmp_path: Path, eventually: Callable[..., Awaitable[Any]]
) -> None:
    flag = tmp_path / "better-times"
    async with open_bridge(server_command("naughty_server", "flaky", str(flag))) as bridge:
        await eventually(lambda: bridge.health == [False])
        async with failing_with(
            grpc.StatusCode.UNAVAILABLE,
            "MCP_SERVER_NOT_READY",
            "naughty_server.py",
            "exited with code 4",
            "waiting for better times",
        ):
            await bridge.text("ok")
        flag.touch()
        await eventually(lambda: bridge.health == [False, True])
        assert await bridge.text("ok") == "ok "


async def test_a_server_that_hangs_in_the_handshake_is_given_up_and_started_again(
    open_bridge: Any, server_command: Any, eventually: Callable[..., Awaitable[Any]]
) -> None:
    async with open_bridge(server_command("naughty_server", "hang"), start_timeout=0.3) as bridge:
        async with failing_with(grpc.StatusCode.UNAVAILABLE, "MCP_SERVER_NOT_READY", "being started"):
            await bridge.text("ok", timeout=0.2)
        await eventually(lambda: bridge.health == [False])
        async with failing_with(grpc.StatusCode.UNAVAILABLE, "MCP_SERVER_NOT_READY", "handshake"):
            await bridge.text("ok")


async def test_a_server_that_ignores_the_probe_is_spoken_to_all_the_same(open_bridge: Any, server_command: Any) -> None:
    async with open_bridge(server_command("naughty_server", "silent"), start_timeout=1.5) as bridge:
        assert await bridge.text("ok") == "ok "
        with contextlib.suppress(grpc.aio.AioRpcError):
            await bridge.text("crash")
        # After a restart the bridge knows the era and does not probe again.
        assert json.loads(await bridge.text("seen"))[0] == "initialize"


async def test_a_server_that_ends_at_the_probe_is_started_without_it(open_bridge: Any, server_command: Any) -> None:
    async with open_bridge(server_command("naughty_server", "strict")) as bridge:
        assert await bridge.text("ok") == "ok "
        assert bridge.health == [True]


async def test_a_banner_on_stdout_does_no_harm(open_bridge: Any, server_command: Any) -> None:
    async with open_bridge(server_command("naughty_server", "banner")) as bridge:
        assert await bridge.text("ok") == "ok "


async def test_many_crashes_leave_no_process_behind(
    open_bridge: Any, server_command: Any, eventually: Callable[..., Awaitable[Any]]
) -> None:
    pids: list[int] = []
    async with open_bridge(server_command("naughty_server"), backoff=Backoff(0.001, 0.01)) as bridge:
        for cycle in range(30):
            pids.append(int(await bridge.text("pid")))
            if cycle % 5 == 0:
                # A process that it leaves behind, which holds its pipes open.
                pids.append(int(await bridge.text("children")))
            with pytest.raises(grpc.aio.AioRpcError):
                await bridge.text("crash")
        assert len(set(pids)) == 36
    await eventually(lambda: not any(is_alive(pid) for pid in pids))


async def test_a_server_that_ignores_sigterm_is_gone_with_the_bridge(
    open_bridge: Any, server_command: Any, eventually: Callable[..., Awaitable[Any]]
) -> None:
    async with open_bridge(server_command("naughty_server", "stubborn")) as bridge:
        pid = int(await bridge.text("pid"))
    await eventually(lambda: not is_alive(pid))


def _rss() -> int:
    return int(Path(f"/proc/{os.getpid()}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
