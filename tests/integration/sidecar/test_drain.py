"""What clients see while a sidecar drains, down to the frames of HTTP/2 (RFC 9113)."""

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest

from mesh.model import Address
from mesh.sidecar import envoy

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
END_STREAM, ACK = 1, 1


class RawHttp2:
    """A gRPC client that does nothing by itself, so that what comes is what the sidecar has sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._next_stream = 1
        self.frames: list[tuple[int, int, int, bytes]] = []
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(SETTINGS, 0, 0, b""))

    def call(self, method: str, message: bytes) -> int:
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": method,
            ":authority": "edge",
            "content-type": "application/grpc",
            "te": "trailers",
        }
        # HPACK (RFC 7541, 6.2.2): literal fields without indexing, new names, no Huffman code.
        block = b"".join(
            b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
            for name, value in headers.items()
        )
        self._writer.write(_frame(HEADERS, 4, stream, block))
        self._writer.write(_frame(DATA, END_STREAM, stream, struct.pack(">BI", 0, len(message)) + message))
        return stream

    async def next_frame(self) -> tuple[int, int, int, bytes] | None:
        """The next frame; None at the end of the connection."""
        try:
            async with asyncio.timeout(10):
                head = await self._reader.readexactly(9)
                payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
        if kind == SETTINGS and not flags & ACK:
            self._writer.write(_frame(SETTINGS, ACK, 0, b""))
        if kind == PING and not flags & ACK:
            self._writer.write(_frame(PING, ACK, 0, payload))
        self.frames.append((kind, flags, stream, payload))
        return self.frames[-1]

    async def until(self, kind: int, stream: int = 0, *, is_last: bool = False) -> None:
        while (frame := await self.next_frame()) is not None:
            if frame[0] == kind and frame[2] == stream and (not is_last or frame[1] & END_STREAM):
                return
        raise AssertionError(f"The connection ended. Frames: {self.frames}")

    @property
    def kinds(self) -> set[int]:
        return {frame[0] for frame in self.frames}

    def data_of(self, stream: int) -> bytes:
        return b"".join(payload for kind, _, of, payload in self.frames if kind == DATA and of == stream)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


@asynccontextmanager
async def connect(address: Address) -> AsyncIterator[RawHttp2]:
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        yield RawHttp2(reader, writer)
    finally:
        writer.close()


async def is_refused(address: Address) -> bool:
    try:
        _, writer = await asyncio.open_connection(address.host, address.port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


@pytest.fixture
async def edge_member(control_plane: Any, hold: Any) -> Any:
    control_plane.declare("edge", kind="gateway")
    return hold(control_plane.open("edge", kind="gateway", edge=Address("127.0.0.1", 0), deregister_wait=0.05))


@pytest.fixture
async def guarded(open_lenient_guard: Any) -> AsyncIterator[Callable[[Any], Awaitable[Address]]]:
    """Waits for a member with an edge, serves a guard for it, and gives the address of the edge."""
    async with AsyncExitStack() as stack:

        async def wait(held: Any) -> Address:
            spec = (await held.member()).spec
            await stack.enter_async_context(open_lenient_guard(spec.guard_socket))
            return spec.edge

        yield wait


async def test_a_draining_sidecar_refuses_connections_sends_goaway_and_finishes_its_streams(
    edge_member: Any, guarded: Any
) -> None:
    edge = await guarded(edge_member)
    async with connect(edge) as client:
        count = client.call("/echo.v1.Echo/Count", b"40")
        await client.until(DATA, count)
        edge_member.leave()
        async with asyncio.timeout(5):
            while not await is_refused(edge):
                await asyncio.sleep(0.01)
        assert GOAWAY not in client.kinds

        say = client.call("/echo.v1.Echo/Say", b"0")
        await client.until(GOAWAY)
        # RFC 9113, 6.8: the highest number of all, so that what is on its way is still served.
        assert client.frames[-1][3][:4] == b"\x7f\xff\xff\xff"
        await client.until(HEADERS, say, is_last=True)
        assert b"instance" in client.data_of(say)

        await client.until(HEADERS, count, is_last=True)
        assert client.data_of(count).endswith(b"39")
        while await client.next_frame() is not None:
            pass
        assert RST_STREAM not in client.kinds
    await edge_member.gone()


async def test_a_client_that_never_pauses_is_served_until_it_has_heard_of_the_end(
    edge_member: Any, guarded: Any
) -> None:
    edge = await guarded(edge_member)
    async with connect(edge) as client:
        answered = 0
        while GOAWAY not in client.kinds:
            say = client.call("/echo.v1.Echo/Say", b"0")
            await client.until(HEADERS, say, is_last=True)
            answered += 1
            if answered == 20:
                edge_member.leave()
        assert RST_STREAM not in client.kinds
    await edge_member.gone()


async def test_a_full_sidecar_takes_no_further_connection_and_still_drains(
    control_plane: Any, hold: Any, guarded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(envoy, "_most_connections", lambda: 2)
    control_plane.declare("edge", kind="gateway")
    held = hold(control_plane.open("edge", kind="gateway", edge=Address("127.0.0.1", 0), deregister_wait=0.0))
    edge = await guarded(held)
    # The registry's check comes and goes on the inbound port.
    control_plane.registry.checks.clear()
    async with connect(edge) as first, connect(edge) as second:
        for client in (first, second):
            await client.until(HEADERS, client.call("/echo.v1.Echo/Say", b"0"), is_last=True)
        async with connect(edge) as third:
            assert await third.next_frame() is None
        count = first.call("/echo.v1.Echo/Count", b"20")
        await first.until(DATA, count)
        held.leave()
        await first.until(HEADERS, count, is_last=True)
        assert first.data_of(count).endswith(b"19")
        await held.gone()


async def test_a_stream_without_an_end_holds_up_the_end_no_longer_than_quiet_wait(
    control_plane: Any, hold: Any, open_echo: Any, obedient_command: tuple[str, ...]
) -> None:
    """An application that ends its streams at SIGTERM gets it after `quiet_wait`, and no call of it fails."""
    control_plane.declare("caller", "echo")
    held = hold(control_plane.open("echo", command=obedient_command, deregister_wait=0.05, quiet_wait=0.2))
    await held.member()
    async with control_plane.open("caller", command=None) as caller:
        await control_plane.wait_healthy("echo")
        async with open_echo(caller.outbound, "echo.mesh") as echo:
            stream = echo.count(b"100000")
            numbers = []
            async for number in stream:
                if not numbers:
                    call = echo.say(b"600", timeout=10)
                    # When what came later is answered, the call has left the caller's sidecar.
                    await echo.say(b"0", timeout=10)
                    held.leave()
                numbers.append(int(number))
            assert json.loads(await call)["instance"].startswith("echo-")
            assert numbers == list(range(len(numbers)))
            assert await stream.code() is grpc.StatusCode.OK
    await held.gone()
