"""A host of MCP with as little of a client as there can be: it must not be what is measured.

One kept HTTP/1.1 connection, and one request after the other on it, written once and sent again and again.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from benchmarks.edge import Call

TEXT = "x" * 64
MODERN, HANDSHAKE = "2026-07-28", "2025-11-25"

_CLIENT = {"name": "benchmark", "version": "1"}
_META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientInfo": _CLIENT,
    "io.modelcontextprotocol/clientCapabilities": {},
}
_SECONDS = 20.0


@dataclass(frozen=True, eq=False)
class Way:
    """Where a tool is called, and how."""

    host: str
    port: int
    path: str
    tool: str = "echo"
    headers: Mapping[str, str] = field(default_factory=dict)
    era: str = HANDSHAKE


@contextlib.asynccontextmanager
async def open_host(way: Way) -> AsyncIterator[Call]:
    """A call of the tool, on a connection of its own, and in the handshake era in a session of its own."""
    connection = _Connection(way)
    try:
        headers = dict(way.headers)
        params: dict[str, object] = {"name": way.tool, "arguments": {"text": TEXT}}
        if way.era == MODERN:
            headers |= {"mcp-method": "tools/call", "mcp-name": way.tool}
            params["_meta"] = _META
        else:
            headers |= await _begin(connection, way)
        headers["mcp-protocol-version"] = way.era
        request = _write(way, {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}, headers)

        async def call() -> None:
            head, content = await connection.exchange(request)
            if not head.startswith(b"http/1.1 200") or TEXT.encode() not in content:
                raise RuntimeError((head.split(b"\r\n", 1)[0] + b" " + content[:300]).decode())

        yield call
    finally:
        connection.close()


async def _begin(connection: "_Connection", way: Way) -> dict[str, str]:
    params = {"protocolVersion": HANDSHAKE, "capabilities": {}, "clientInfo": _CLIENT}
    hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
    head, content = await connection.exchange(_write(way, hello, way.headers))
    if not head.startswith(b"http/1.1 200"):
        raise RuntimeError((head.split(b"\r\n", 1)[0] + b" " + content[:300]).decode())
    ids = [line.partition(b":")[2].strip() for line in head.split(b"\r\n") if line.startswith(b"mcp-session-id:")]
    session = {"mcp-session-id": ids[0].decode()} if ids else {}
    done = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    more = {**way.headers, **session, "mcp-protocol-version": HANDSHAKE}
    await connection.exchange(_write(way, done, more))
    return session


def _write(way: Way, message: object, headers: Mapping[str, str]) -> bytes:
    body = json.dumps(message)
    made = {
        "host": f"{way.host}:{way.port}",
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "content-length": str(len(body)),
        **headers,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in made.items())
    return f"POST {way.path} HTTP/1.1\r\n{head}\r\n{body}".encode()


class _Connection:
    def __init__(self, way: Way) -> None:
        self._way = way
        self._kept: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def exchange(self, request: bytes) -> tuple[bytes, bytes]:
        """The head of the answer but for ids in small letters, and its body."""
        async with asyncio.timeout(_SECONDS):
            if self._kept is None or self._kept[0].at_eof():
                # Servers close connections that were idle for some seconds, while others were measured.
                self.close()
                self._kept = await self._connect()
            reader, writer = self._kept
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            lines = [_lowered(line) for line in head.split(b"\r\n")]
            return b"\r\n".join(lines), await _content(reader, lines)

    def close(self) -> None:
        if self._kept is not None:
            self._kept[1].close()
            self._kept = None

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while True:
            try:
                return await asyncio.open_connection(self._way.host, self._way.port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.05)  # it is being started


def _lowered(line: bytes) -> bytes:
    name, colon, value = line.partition(b":")
    return name.lower() + colon + value


async def _content(reader: asyncio.StreamReader, head: list[bytes]) -> bytes:
    for line in head:
        if line.startswith(b"content-length:"):
            return await reader.readexactly(int(line[15:]))
        if line.startswith(b"transfer-encoding:"):
            break
    else:
        return b""
    pieces = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        pieces += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return pieces
