"""`python -m services.mcp_bridge` as a process: health, errors at the start, shutdown, memory."""

import asyncio
import json
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from agentmesh.mcp.v1 import mcp_bridge_service_pb2 as pb

GOAL_RSS_MB = 70


def rss_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def call(stub: Any, name: str, arguments: bytes = b"", timeout: float = 20) -> Any:
    request = pb.CallToolRequest(name=name, arguments=arguments)
    return [event async for event in stub.CallTool(request, timeout=timeout)][-1].result


async def test_it_serves_when_the_server_is_ready_and_ends_cleanly_on_sigterm(
    open_bridge_process: Any,
    server_command: Any,
    wait_serving: Callable[..., Awaitable[Any]],
) -> None:
    async with open_bridge_process("--", *server_command("high_level_server")) as bridge:
        await wait_serving(bridge.health, "SERVING")
        result = await call(bridge.stub, "add", b'{"a": 1, "b": 2}')
        assert json.loads(result.structured_content) == {"total": 3}
        for _ in range(50):
            await call(bridge.stub, "count", b'{"to": 5}')
        measured = rss_mb(bridge.process.pid)
        print(f"bridge RSS after 50 calls: {measured:.1f} MB", file=sys.stderr)
        assert measured <= GOAL_RSS_MB

        bridge.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            assert await bridge.process.wait() == 0


async def test_a_call_in_flight_finishes_while_it_drains(
    open_bridge_process: Any, server_command: Any, wait_serving: Callable[..., Awaitable[Any]]
) -> None:
    async with open_bridge_process("--", *server_command("naughty_server")) as bridge:
        await wait_serving(bridge.health, "SERVING")
        running = bridge.stub.CallTool(pb.CallToolRequest(name="slow"), timeout=20)
        assert (await running.read()).progress.progress == 0.5
        bridge.process.send_signal(signal.SIGTERM)
        assert (await running.read()).result.content[0].text.text == "at last"
        async with asyncio.timeout(20):
            assert await bridge.process.wait() == 0


async def test_a_command_that_does_not_exist_ends_it_with_a_clear_error(open_bridge_process: Any) -> None:
    async with open_bridge_process("--", "no-such-mcp-server", "--api-key=hunter2") as bridge:
        async with asyncio.timeout(20):
            _, errors = await bridge.process.communicate()
        assert bridge.process.returncode == 1
        assert b"no-such-mcp-server" in errors
        assert b"hunter2" not in errors
        assert b"Traceback" not in errors


@pytest.mark.parametrize("arguments", [(), ("--url", "http://x/mcp", "--", "cat"), ("--max-links", "0", "--", "cat")])
async def test_arguments_that_make_no_sense_are_a_usage_error(
    open_bridge_process: Any, arguments: tuple[str, ...]
) -> None:
    async with open_bridge_process(*arguments) as bridge:
        async with asyncio.timeout(20):
            _, errors = await bridge.process.communicate()
        assert bridge.process.returncode == 2
        assert b"usage:" in errors


@pytest.mark.parametrize(
    ("environment", "word"), [({"MESH_SERVICE": "Bad Name"}, b"MESH_SERVICE"), ({"MESH_LISTEN": ""}, b"MESH_LISTEN")]
)
async def test_a_bad_variable_is_named(open_bridge_process: Any, environment: dict[str, str], word: bytes) -> None:
    async with open_bridge_process("--", "cat", **environment) as bridge:
        async with asyncio.timeout(20):
            _, errors = await bridge.process.communicate()
        assert bridge.process.returncode == 1
        assert word in errors
        assert b"Traceback" not in errors


async def test_a_command_that_exits_whenever_it_is_started_ends_it_with_the_last_words(
    open_bridge_process: Any, server_command: Any
) -> None:
    async with open_bridge_process("--", *server_command("naughty_server", "exit"), "--token", "hunter2") as bridge:
        async with asyncio.timeout(20):
            _, errors = await bridge.process.communicate()
        assert bridge.process.returncode == 1
        assert b"exited with code 7" in errors
        assert b"cannot open the database" in errors
        assert b"hunter2" not in errors
        assert b"Traceback" not in errors


async def test_a_server_that_cannot_be_started_again_leaves_it_alive_and_not_serving(
    open_bridge_process: Any, server_command: Any, wait_serving: Callable[..., Awaitable[Any]], tmp_path: Path
) -> None:
    once = 'if test -e "$0"; then echo cannot open the database >&2; exit 7; fi; touch "$0"; exec "$@"'
    command = ("/bin/sh", "-c", once, str(tmp_path / "started"), *server_command("naughty_server"))
    async with open_bridge_process("--", *command, "--token", "hunter2") as bridge:
        await wait_serving(bridge.health, "SERVING")
        with pytest.raises(grpc.aio.AioRpcError):
            await call(bridge.stub, "crash")
        await wait_serving(bridge.health, "NOT_SERVING")
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call(bridge.stub, "ok")
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        details = failed.value.details() or ""
        assert "exited with code 7" in details
        assert "cannot open the database" in details
        assert "hunter2" not in details
        assert bridge.process.returncode is None


async def test_killing_the_bridge_takes_the_server_along(
    open_bridge_process: Any,
    server_command: Any,
    wait_serving: Callable[..., Awaitable[Any]],
    eventually: Callable[..., Awaitable[Any]],
) -> None:
    async with open_bridge_process("--", *server_command("naughty_server", "stubborn")) as bridge:
        await wait_serving(bridge.health, "SERVING")
        pid = int((await call(bridge.stub, "pid")).content[0].text.text)
        bridge.process.kill()
        await bridge.process.wait()
        await eventually(lambda: not is_alive(pid))
