"""Bridges to fixture servers, within the test process and as processes of their own."""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agentmesh.mcp.v1 import mcp_bridge_service_pb2 as pb
from agentmesh.mcp.v1 import mcp_bridge_service_pb2_grpc as pb_grpc
from benchmarks.ports import free_ports, wait_for_server
from mesh.mcp import (
    LinkServer,
    McpBridgeServicer,
    RequestServer,
    SessionPool,
    Upstream,
    open_session_pool,
    open_stdio_peer,
    open_stdio_wire,
)
from mesh.mcp.link_http import open_http_peer
from mesh.mcp.streamable_http import HttpServer, open_http_wire
from mesh.rpc import ServerSettings, Service, open_server
from mesh.runtime import Backoff, ChildSpec

SERVERS = Path(__file__).parent / "servers"
ROOT = Path(__file__).parents[3]
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "host", "version": "7"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


@dataclass
class Bridge:
    """A bridge that runs, and a stub for it."""

    stub: Any
    channel: grpc.aio.Channel
    upstream: Upstream
    health: list[bool]
    draining: asyncio.Event
    pool: SessionPool

    async def ask(self, method: str, params: Any = None, **more: Any) -> Any:
        """Ask as a client of the modern era; give the outcome, read."""
        return _read(await self.stub.Ask(_request(method, params, **more), timeout=10))

    async def tool(self, name: str, arguments: Any = None, **more: Any) -> Any:
        """Call a tool of raw_server; give what it said."""
        answer = await self.ask("tools/call", {"name": name, "arguments": arguments or {}}, **more)
        assert answer.kind == "result", answer
        return json.loads(answer.said["content"][0]["text"])

    async def dialog(self, method: str, params: Any = None, **more: Any) -> "Talk":
        """Begin a dialog."""
        call = self.stub.Dialog(timeout=20)
        await call.write(pb.DialogRequest(request=_request(method, params, **more)))
        return Talk(call)

    async def tool_dialog(self, name: str, arguments: Any = None, **more: Any) -> "Talk":
        """Begin a dialog that calls a tool."""
        return await self.dialog("tools/call", {"name": name, "arguments": arguments or {}}, **more)

    async def call(self, name: str, arguments: bytes = b"", *, timeout: float = 10.0, **more: Any) -> Any:
        """Call a tool; give its result, after what came before it."""
        request = pb.CallToolRequest(name=name, arguments=arguments, **more)
        events = [event async for event in self.stub.CallTool(request, timeout=timeout)]
        assert events[-1].WhichOneof("event") == "result"
        return SimpleNamespace(result=events[-1].result, before=events[:-1])

    async def text(self, name: str, arguments: bytes = b"", *, timeout: float = 10.0) -> str:
        """Call a tool; give the text of its result."""
        outcome = await self.call(name, arguments, timeout=timeout)
        return outcome.result.content[0].text.text


def _request(
    method: str, params: Any = None, *, key: str = "", can: dict[str, Any] | None = None, **meta: Any
) -> pb.AskRequest:
    """Build a request of a client with the capabilities `can`; `meta` is more of its `_meta`."""
    whole = {**META, "io.modelcontextprotocol/clientCapabilities": can or {}, **meta.pop("meta", {}), **meta}
    return pb.AskRequest(method=method, params=json.dumps({**(params or {}), "_meta": whole}).encode(), session_key=key)


def _read(answer: pb.AskResponse) -> Any:
    kind = answer.WhichOneof("outcome")
    return SimpleNamespace(kind=kind, text=getattr(answer, kind), said=json.loads(getattr(answer, kind)))


@dataclass
class Talk:
    """A dialog that runs."""

    call: Any

    async def next(self) -> Any:
        """Read what comes next; kind is "notification", "question", "result" or "error"."""
        async with asyncio.timeout(10):
            message = await self.call.read()
        assert message is not grpc.aio.EOF
        kind = message.WhichOneof("message")
        if kind == "outcome":
            return _read(message.outcome)
        found = getattr(message, kind)
        said = json.loads(found.params) if found.params else {}
        return SimpleNamespace(kind=kind, method=found.method, said=said, id=getattr(found, "id", ""))

    async def text(self) -> Any:
        """Read the result of a tool of raw_server, which must come next."""
        outcome = await self.next()
        assert outcome.kind == "result", outcome
        return json.loads(outcome.said["content"][0]["text"])

    async def answer(self, question_id: str, **outcome: Any) -> None:
        """Answer a question with a result or an error."""
        texts = {kind: json.dumps(value).encode() for kind, value in outcome.items()}
        await self.call.write(pb.DialogRequest(answer=pb.DialogAnswer(id=question_id, **texts)))


OpenBridge = Callable[..., AbstractAsyncContextManager[Bridge]]


@pytest.fixture(scope="session")
def short_dir() -> Iterator[Path]:
    """A directory whose path is short enough for unix sockets."""
    path = tempfile.mkdtemp(prefix="am-", dir="/tmp")
    yield Path(path)
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def server_command() -> Callable[..., tuple[str, ...]]:
    """Build the command of a fixture server."""
    return lambda name, *arguments: (sys.executable, str(SERVERS / f"{name}.py"), *arguments)


@pytest.fixture(scope="session")
def open_bridge(short_dir: Path) -> OpenBridge:
    """Open a bridge in this process, to a command or to a URL."""
    numbers = iter(range(10_000))

    @asynccontextmanager
    async def open_it(
        command: tuple[str, ...] = (),
        *,
        url: str = "",
        max_frame_bytes: int = 4 * 1024 * 1024,
        max_links: int = 4,
        max_sessions: int = 4,
        idle_seconds: float = 60.0,
        start_timeout: float = 20.0,
        backoff: Backoff | None = None,
        **limits: int,
    ) -> AsyncIterator[Bridge]:
        draining = asyncio.Event()
        if url:
            http = HttpServer(url, max_frame_bytes=max_frame_bytes)
            wire, peer = (lambda: open_http_wire(http)), (lambda: open_http_peer(http, "fixture"))
        else:
            spec = ChildSpec(name="fixture", command=command, env={}, cwd=None, pipe_stdio=True, grace=1.0, **limits)
            wire = lambda: open_stdio_wire(spec, max_frame_bytes=max_frame_bytes)  # noqa: E731
            peer = lambda: open_stdio_peer(spec, max_frame_bytes=max_frame_bytes)  # noqa: E731
        upstream = Upstream("fixture", wire, backoff=backoff or Backoff(0.01, 0.3), start_timeout=start_timeout)
        links = LinkServer("fixture", peer, draining=draining, max_links=max_links, max_frame_bytes=max_frame_bytes)
        listen = f"unix:{short_dir}/{next(numbers)}.sock"
        health: list[bool] = []

        async def on_health(is_serving: bool) -> None:
            health.append(is_serving)

        async with AsyncExitStack() as stack:
            pool = await stack.enter_async_context(
                open_session_pool(
                    "fixture",
                    peer,
                    max_frame_bytes=max_frame_bytes,
                    max_sessions=max_sessions,
                    idle_seconds=idle_seconds,
                    start_timeout=start_timeout,
                )
            )
            requests = RequestServer(upstream, pool, draining=draining, max_frame_bytes=max_frame_bytes)
            servicer = McpBridgeServicer(upstream, links, requests, draining=draining, max_frame_bytes=max_frame_bytes)
            service = Service(
                pb.DESCRIPTOR.services_by_name["McpBridgeService"],
                lambda server: pb_grpc.add_McpBridgeServiceServicer_to_server(servicer, server),
            )
            server_settings = ServerSettings(service="fixture", listen=listen, drain_grace=2.0)
            await stack.enter_async_context(open_server(server_settings, [service]))
            running = asyncio.create_task(upstream.run(on_health))
            try:
                async with grpc.aio.insecure_channel(listen) as channel:
                    stub = pb_grpc.McpBridgeServiceStub(channel)
                    yield Bridge(stub, channel, upstream, health, draining, pool)
            finally:
                draining.set()
                running.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await running

    return open_it


@pytest.fixture(scope="session")
def http_server(server_command: Callable[..., tuple[str, ...]]) -> Iterator[Callable[..., str]]:
    """Start high_level_server over streamable HTTP, once for each set of arguments; gives its URL."""
    started: dict[tuple[str, ...], tuple[subprocess.Popen[bytes], str]] = {}

    def start(*arguments: str) -> str:
        if arguments not in started:
            (port,) = free_ports(1)
            process = subprocess.Popen(
                server_command("high_level_server", "--http", str(port), *arguments), stderr=subprocess.DEVNULL
            )
            started[arguments] = (process, f"http://127.0.0.1:{port}/mcp")
            wait_for_server(port)
        return started[arguments][1]

    yield start
    for process, _ in started.values():
        process.kill()
        process.wait()


@pytest.fixture
def free_port() -> int:
    """A TCP port on which nothing listens."""
    return free_ports(1)[0]


@pytest.fixture(scope="session")
def http_echo(server_command: Callable[..., tuple[str, ...]]) -> Iterator[str]:
    """The URL of http_echo_server."""
    (port,) = free_ports(1)
    process = subprocess.Popen(server_command("http_echo_server", str(port)))
    wait_for_server(port)
    yield f"http://127.0.0.1:{port}/mcp"
    process.kill()
    process.wait()


@pytest.fixture
def open_bridge_process(short_dir: Path) -> Callable[..., AbstractAsyncContextManager[Any]]:
    """Start `python -m services.mcp_bridge` as an operator's launcher would."""
    numbers = iter(range(10_000))

    @asynccontextmanager
    async def open_it(*arguments: str, **environment: str) -> AsyncIterator[Any]:
        listen = f"unix:{short_dir}/p{os.getpid()}{next(numbers)}{len(arguments)}.sock"
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.mcp_bridge",
            *arguments,
            cwd=ROOT,
            env={**os.environ, "MESH_SERVICE": "fixture", "MESH_LISTEN": listen, **environment},
            stderr=asyncio.subprocess.PIPE,
            limit=2**22,
        )
        try:
            async with grpc.aio.insecure_channel(listen) as channel:
                yield SimpleNamespace(
                    process=process,
                    stub=pb_grpc.McpBridgeServiceStub(channel),
                    health=health_pb2_grpc.HealthStub(channel),
                    listen=listen,
                )
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    return open_it


@pytest.fixture
def eventually() -> Callable[..., Awaitable[Any]]:
    """Wait until a condition holds; fail after some seconds."""

    async def wait_for(condition: Callable[[], Any], *, seconds: float = 10.0) -> Any:
        async with asyncio.timeout(seconds):
            while True:
                found = condition()
                if asyncio.iscoroutine(found):
                    found = await found
                if found:
                    return found
                await asyncio.sleep(0.02)

    return wait_for


@pytest.fixture
def wait_serving(eventually: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Wait until a bridge process has a health status."""

    async def wait_for(health: Any, status: str) -> None:
        async def is_so() -> bool:
            try:
                answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=5)
            except grpc.aio.AioRpcError:
                return False
            return bool(answer.status == health_pb2.HealthCheckResponse.ServingStatus.Value(status))

        await eventually(is_so, seconds=30)

    return wait_for
