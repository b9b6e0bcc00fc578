"""Link: one MCP connection for each stream, frames verbatim, and the SDK's own clients over it."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from mcp import Client, ClientSession
from mcp.shared.exceptions import MCPError

from agentmesh.mcp.v1 import mcp_bridge_service_pb2 as pb
from agentmesh.mcp.v1 import mcp_pb2
from mesh.mcp import open_link_transport

LIMIT = 64 * 1024


class Stream:
    """A Link with a deadline on each step."""

    def __init__(self, stub: Any) -> None:
        self.call = stub.Link()

    async def send(self, message: bytes, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        await self.call.write(pb.LinkRequest(frame=mcp_pb2.Frame(message=message, headers=named)))

    async def receive(self, seconds: float = 10) -> bytes:
        async with asyncio.timeout(seconds):
            response = await self.call.read()
        if response is grpc.aio.EOF:
            raise EOFError
        message: bytes = response.frame.message
        return message

    async def ask(self, message: bytes, **headers: str) -> Any:
        await self.send(message, **headers)
        return json.loads(await self.receive())


@pytest.fixture
async def naughty(open_bridge: Any, server_command: Any) -> AsyncIterator[Any]:
    async with open_bridge(server_command("naughty_server"), max_frame_bytes=LIMIT, max_links=2) as bridge:
        yield bridge


def call_frame(name: str, request_id: int = 1, **arguments: Any) -> bytes:
    params = {"name": name, "arguments": arguments}
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}).encode()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


VERBATIM = [
    b'{"jsonrpc":"2.0","id":1,"method":"a"}',
    b'  {"id" : "x",  "method":"a","jsonrpc":"2.0","params":{"n":1.0,"m":1e2,"big":123456789012345678901234567890}} ',
    '{"jsonrpc":"2.0","method":"a","params":{"s":"☃ \\u2603 \\ud83d\\ude00 \\u0000","dup":1,"dup":2}}'.encode(),
    b'{"jsonrpc":"2.0","id":0,"result":{"unknown":[[[]]]},"extra":null}',
]


async def test_frames_pass_byte_for_byte(open_bridge: Any, server_command: Any) -> None:
    async with open_bridge(server_command("echo_server"), start_timeout=0.2) as bridge:
        stream = Stream(bridge.stub)
        for frame in VERBATIM:
            await stream.send(frame)
            assert await stream.receive() == frame
        large = b'{"jsonrpc":"2.0","id":1,"result":{"x":"' + b"y" * 3_000_000 + b'"}}'
        await stream.send(large)
        assert await stream.receive() == large
        await stream.call.done_writing()
        with pytest.raises(EOFError):
            await stream.receive()
        assert await stream.call.code() is grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("message", "code", "request_id"),
    [
        (b"hello", -32700, None),
        (b"", -32700, None),
        (b"\xff\xfe{", -32700, None),
        (b'{"jsonrpc":"2.0","id":5,"method":"a","params":{"x":NaN}}', -32700, None),
        (b"[" * 60_000, -32700, None),
        (b"[]", -32600, None),
        (b'{"id":7,"method":"a"}', -32600, 7),
        (b'{"jsonrpc":"2.0","id":8}', -32600, 8),
        (b'{"jsonrpc":"2.0","id":null,"method":"a"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"a"}', -32600, None),
        (b'{"jsonrpc":"2.0",\n"id":9,"method":"a"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":1,"method":"' + b"x" * LIMIT + b'"}', -32600, None),
    ],
)
async def test_a_frame_that_is_none_is_answered_and_the_stream_goes_on(
    naughty: Any, message: bytes, code: int, request_id: int | None
) -> None:
    stream = Stream(naughty.stub)
    refused = await stream.ask(message)
    assert refused["jsonrpc"] == "2.0"
    assert refused["error"]["code"] == code
    assert refused["id"] == request_id
    assert (await stream.ask(call_frame("ok", 2)))["id"] == 2
    stream.call.cancel()


async def test_each_link_has_a_server_of_its_own_that_ends_with_it(
    naughty: Any, eventually: Callable[..., Awaitable[Any]]
) -> None:
    streams = [Stream(naughty.stub) for _ in range(2)]
    pids = [int((await stream.ask(call_frame("pid")))["result"]["content"][0]["text"]) for stream in streams]
    assert len(set(pids)) == 2
    assert await naughty.text("pid") not in map(str, pids)
    streams[0].call.cancel()
    await streams[1].call.done_writing()
    await eventually(lambda: not any(is_alive(pid) for pid in pids))


async def test_links_beyond_the_limit_are_refused_until_one_ends(
    naughty: Any, eventually: Callable[..., Awaitable[Any]]
) -> None:
    streams = [Stream(naughty.stub) for _ in range(2)]
    for stream in streams:
        await stream.ask(call_frame("ok"))
    third = Stream(naughty.stub)
    with pytest.raises((EOFError, grpc.aio.AioRpcError)):
        await third.receive()
    assert await third.call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    streams[0].call.cancel()

    async def is_free() -> bool:
        stream = Stream(naughty.stub)
        try:
            return bool(await stream.ask(call_frame("ok")))
        except (EOFError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return False
        finally:
            stream.call.cancel()

    await eventually(is_free)
    streams[1].call.cancel()


async def test_a_link_ends_with_its_server_and_tells_why(naughty: Any) -> None:
    stream = Stream(naughty.stub)
    await stream.ask(call_frame("ok"))
    await stream.send(call_frame("crash"))
    with pytest.raises((EOFError, grpc.aio.AioRpcError)):
        await stream.receive()
    assert await stream.call.code() is grpc.StatusCode.UNAVAILABLE
    details = await stream.call.details()
    assert "exited with code 3" in details and "disk on fire" in details
    assert await naughty.text("ok") == "ok "


async def test_what_the_server_says_besides_frames_is_skipped(naughty: Any) -> None:
    stream = Stream(naughty.stub)
    assert (await stream.ask(call_frame("non_json", 3)))["id"] == 3
    too_large = await stream.ask(call_frame("oversize", 4, size=2 * LIMIT))
    assert too_large["id"] == 4
    assert too_large["error"]["code"] == -32603
    assert str(LIMIT) in too_large["error"]["message"]
    assert (await stream.ask(call_frame("oversize_unknown", 5, size=2 * LIMIT)))["id"] == 5
    stream.call.cancel()


async def test_a_link_ends_when_the_bridge_drains(naughty: Any) -> None:
    stream = Stream(naughty.stub)
    await stream.ask(call_frame("ok"))
    naughty.draining.set()
    with pytest.raises((EOFError, grpc.aio.AioRpcError)):
        await stream.receive()
    assert await stream.call.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("transport", ["stdio", "http"])
@pytest.mark.parametrize("era", ["modern", "handshake"])
async def test_the_sdk_client_works_over_a_link(
    open_bridge: Any, server_command: Any, http_server: Callable[..., str], transport: str, era: str
) -> None:
    if transport == "stdio":
        opened = open_bridge(server_command("high_level_server"))
    else:
        opened = open_bridge(url=http_server())
    seen: list[float] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        seen.append(progress)

    async with (
        opened as bridge,
        Client(open_link_transport(bridge.channel), mode="auto" if era == "modern" else "legacy") as client,
    ):
        expected = "2026-07-28" if era == "modern" else "2025-11-25"
        assert client.session.protocol_version == expected
        assert {tool.name for tool in (await client.list_tools()).tools} >= {"add", "count"}
        result = await client.call_tool("add", {"a": 2**70, "b": 1})
        assert result.structured_content == {"total": 2**70 + 1}
        await client.call_tool("count", {"to": 3}, progress_callback=on_progress)
        assert seen == [1, 2, 3]
        # Cancelled while it runs; the server notices and the link goes on.
        waiting = asyncio.create_task(client.call_tool("wait", {"name": f"{transport}-{era}"}))
        async with asyncio.timeout(10):
            while True:
                await asyncio.sleep(0.01)
                waiting.cancel()
                gone = await client.call_tool("cancelled", {})
                if waiting.done() or f"{transport}-{era}" in str(gone.structured_content):
                    break
        with pytest.raises((asyncio.CancelledError, MCPError)):
            await waiting
        assert (await client.read_resource("test://text")).contents[0].text == "hello ☃"  # type: ignore[union-attr]


async def test_the_sdk_client_learns_that_the_server_is_gone(naughty: Any) -> None:
    faults: list[Any] = []

    async def on_message(message: Any) -> None:
        if isinstance(message, Exception):
            faults.append(message)

    async with (
        open_link_transport(naughty.channel) as (read, write),
        ClientSession(read, write, message_handler=on_message) as session,
    ):
        await session.initialize()
        with pytest.raises(MCPError, match="Connection closed"):
            await session.call_tool("crash", {})
        assert "disk on fire" in str(faults[0])


async def test_answers_over_http_are_verbatim(http_echo: str, open_bridge: Any) -> None:
    async with open_bridge(url=http_echo, max_frame_bytes=LIMIT, start_timeout=0.2) as bridge:
        stream = Stream(bridge.stub)
        odd = b'{"jsonrpc" : "2.0", "id":%s,"result":{ "pi": 3.10, "big":123456789012345678901234567890, "e":1E2 }}'
        await stream.send(b'{"jsonrpc":"2.0","id":1,"method":"x"}')
        assert await stream.receive() == odd % b"1"
        await stream.send(b'{"jsonrpc":"2.0","id":"two","method":"x","params":{"answer":"events"}}')
        assert (await stream.receive()).startswith(b'{"jsonrpc":"2.0",  "method":"notifications/message"')
        assert await stream.receive() == odd % b'"two"'
        await stream.send(b'{"jsonrpc":"2.0","id":3,"method":"x","params":{"answer":"pretty"}}')
        pretty = await stream.receive()
        assert b"\n" not in pretty and json.loads(pretty)["result"]["big"] == 123456789012345678901234567890
        stream.call.cancel()


async def test_requests_over_http_are_verbatim_with_the_headers_of_the_protocol(
    http_echo: str, open_bridge: Any
) -> None:
    async with open_bridge(url=http_echo, max_frame_bytes=LIMIT, start_timeout=0.2) as bridge:
        stream = Stream(bridge.stub)
        frame = (
            b'{"jsonrpc":"2.0", "id":1,"method":"tools/call","params":{"name":"t\xc3\xb6","answer":"headers","f":1.0}}'
        )
        answer = await stream.ask(
            frame, mcp_protocol_version="2026-07-28", mcp_param_region="eu", authorization="Bearer no", host="evil"
        )
        assert answer["result"]["body"] == frame.decode()
        headers = answer["result"]["headers"]
        assert headers["mcp-protocol-version"] == "2026-07-28"
        assert headers["mcp-method"] == "tools/call"
        assert headers["mcp-name"].startswith("=?base64?")
        assert headers["mcp-param-region"] == "eu"
        assert "authorization" not in headers
        assert headers["host"].startswith("127.0.0.1")
        stream.call.cancel()


@pytest.mark.parametrize(
    ("how", "code", "words"),
    [
        ("500", -32603, "HTTP 500"),
        ("200", -32603, "text/plain"),
        ("null_id", -32020, "mismatch"),
        ("large", -32603, str(LIMIT)),
    ],
)
async def test_a_refusal_over_http_is_an_error_of_its_request(
    http_echo: str, open_bridge: Any, how: str, code: int, words: str
) -> None:
    async with open_bridge(url=http_echo, max_frame_bytes=LIMIT, start_timeout=0.2) as bridge:
        stream = Stream(bridge.stub)
        message = {"jsonrpc": "2.0", "id": 6, "method": "x", "params": {"answer": how}}
        answer = await stream.ask(json.dumps(message).encode())
        assert answer["id"] == 6
        assert answer["error"]["code"] == code
        assert words in answer["error"]["message"]
        assert "result" in await stream.ask(b'{"jsonrpc":"2.0","id":7,"method":"x"}')
        stream.call.cancel()


async def test_a_server_that_is_away_is_an_error_of_the_request(open_bridge: Any, free_port: int) -> None:
    async with open_bridge(url=f"http://127.0.0.1:{free_port}/mcp?key=secret") as bridge:
        stream = Stream(bridge.stub)
        answer = await stream.ask(b'{"jsonrpc":"2.0","id":1,"method":"x"}')
        assert "cannot be reached" in answer["error"]["message"]
        stream.call.cancel()
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await bridge.text("ok", timeout=2)
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        assert f"127.0.0.1:{free_port}" in (failed.value.details() or "")
        assert "secret" not in (failed.value.details() or "")
