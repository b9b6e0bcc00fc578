"""A server behind a URL that goes away and comes back, or answers more than allowed."""

import asyncio
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import grpc.aio
import pytest

from agentmesh.mcp.v1 import mcp_bridge_service_pb2 as pb
from benchmarks.ports import wait_for_server


@pytest.fixture
def start(server_command: Any, free_port: int) -> Iterator[Callable[..., Any]]:
    """Start the fixture server on the same port each time."""
    processes: list[subprocess.Popen[bytes]] = []

    def start_it(*arguments: str) -> subprocess.Popen[bytes]:
        command = server_command("high_level_server", "--http", str(free_port), *arguments)
        processes.append(subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL))
        wait_for_server(free_port)
        return processes[-1]

    yield start_it
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.parametrize("arguments", [(), ("--legacy",)])
async def test_a_server_that_is_restarted_is_found_again(
    start: Callable[..., Any],
    open_bridge: Any,
    free_port: int,
    arguments: tuple[str, ...],
    eventually: Callable[..., Awaitable[Any]],
) -> None:
    server = start(*arguments)
    async with open_bridge(url=f"http://127.0.0.1:{free_port}/mcp") as bridge:
        assert (await bridge.call("add", b'{"a": 1, "b": 1}')).result.structured_content == b'{"total":2}'
        watch = bridge.stub.Watch(pb.WatchRequest(), timeout=30)
        await watch.read()
        waiting = asyncio.create_task(bridge.text("wait", b'{"name": "x"}', timeout=30))
        await eventually(lambda: bridge.upstream._connection.answers >= 1)
        server.kill()
        server.wait()
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await bridge.call("add", b'{"a": 1, "b": 1}')
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        for lost in (waiting, watch.read()):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await lost
            assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        await eventually(lambda: False in bridge.health)
        start(*arguments)
        await eventually(lambda: bridge.health[-1])
        assert (await bridge.call("add", b'{"a": 2, "b": 2}')).result.structured_content == b'{"total":4}'


async def test_a_session_that_the_server_forgot_is_opened_anew(
    start: Callable[..., Any], open_bridge: Any, free_port: int
) -> None:
    server = start("--legacy")
    async with open_bridge(url=f"http://127.0.0.1:{free_port}/mcp") as bridge:
        await bridge.call("add", b'{"a": 1, "b": 1}')
        server.kill()
        server.wait()
        start("--legacy")
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await bridge.call("add", b'{"a": 1, "b": 1}')
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        assert (await bridge.call("add", b'{"a": 2, "b": 2}')).result.structured_content == b'{"total":4}'


async def test_an_answer_over_the_limit_fails_its_call_only(http_server: Callable[..., str], open_bridge: Any) -> None:
    async with open_bridge(url=http_server(), max_frame_bytes=50_000) as bridge:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await bridge.call("large", b'{"size": 60000}')
        assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert len(await bridge.text("large", b'{"size": 10000}')) == 10_000
