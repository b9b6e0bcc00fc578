"""What a tool call costs through the edge, compared with a call to the server itself over HTTP.

direct    the echo server's own HTTP endpoint (the SDK's, uvicorn, JSON answers)
stdio     the same server behind a bridge over stdio   ┐ through the edge: an API key, a decision for the tool,
http      the same server behind a bridge over HTTP    ┘ limits, the audit

All in the revision 2026-07-28. Client, server, gateway, sidecars and bridge share the machine's cores.
"""

import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from statistics import median

from benchmarks.edge import Call, apply_document, load, meshctl_of, timed
from benchmarks.mesh_under_test import Mesh, running_mesh
from benchmarks.ports import free_ports
from benchmarks.report import Figure, at_least, at_most, median_ratio, quantile

ECHO = Path(__file__).with_name("mcp_echo.py")
ROUNDS = 8
CALLS_IN_A_ROW = 60
AT_ONCE = 8
LOAD_SECONDS = 3.0
TEXT = "x" * 64
DOCUMENT = {
    "access": {"bindings": {"everybody": None}},
    "edge": {"limits": {"per-client": {"per": ["client"], "requests": 100_000, "burst": 100_000}}},
}
_META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "benchmark", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


async def measure() -> list[Figure]:
    """Latency one call at a time, and throughput of eight clients, in rounds that alternate."""
    with _echo_server() as port, _mesh(port) as mesh:
        apply_document(mesh, DOCUMENT)
        key = json.loads(meshctl_of(mesh, "keys", "create", "--role", "caller", "--output", "json"))["secret"]
        host, _, gateway = mesh.gateway.partition(":")
        ways = {
            "direct": (host, port, "/mcp", "echo", ""),
            "stdio": (host, int(gateway), "/servers/echo-stdio/mcp", "echo", key),
            "http": (host, int(gateway), "/servers/echo-http/mcp", "echo", key),
            "federated stdio": (host, int(gateway), "/mcp", "echo-stdio__echo", key),
        }
        async with contextlib.AsyncExitStack() as stack:
            calls = {
                name: [await stack.enter_async_context(_open(*way)) for _ in range(AT_ONCE)]
                for name, way in ways.items()
            }
            for each in calls.values():
                await load(each, 1.0)
            return await _compare(calls)


async def _compare(calls: dict[str, list[Call]]) -> list[Figure]:
    p50: dict[str, list[float]] = {name: [] for name in calls}
    rate: dict[str, list[float]] = {name: [] for name in calls}
    failed = 0
    for _ in range(ROUNDS):
        for name, each in calls.items():
            times = [await timed(each[0]) for _ in range(CALLS_IN_A_ROW)]
            p50[name].append(quantile(times, 0.5))
            loaded, lost, seconds = await load(each, LOAD_SECONDS)
            rate[name].append(len(loaded) / seconds)
            failed += lost
    base = (
        f"direct: p50 {median(p50['direct']) * 1e3:.2f} ms, {median(rate['direct']):.0f} calls/s at {AT_ONCE} clients"
    )
    goals = {"stdio": 1.0, "http": 0.8, "federated stdio": 1.0}
    figures = []
    for name, goal in goals.items():
        added = median(own - other for own, other in zip(p50[name], p50["direct"], strict=True))
        share = median_ratio(rate[name], rate["direct"])
        figures += [
            at_least(f"MCP, {name}: throughput over direct", share, "x", goal, baseline=base),
            at_most(f"MCP, {name}: added p50", added * 1e3, "ms", 1.5, baseline=base),
        ]
    return [*figures, at_most("MCP: calls that failed", failed, "calls", 0, baseline=base)]


@contextlib.contextmanager
def _mesh(port: int) -> Iterator[Mesh]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mesh.yaml"
        services = {
            "echo-stdio": {"kind": "mcp", "command": [sys.executable, str(ECHO)]},
            "echo-http": {"kind": "mcp", "url": f"http://127.0.0.1:{port}/mcp"},
        }
        file.write_text(json.dumps({"services": services}))
        with running_mesh(file) as mesh:
            yield mesh


@contextlib.contextmanager
def _echo_server() -> Iterator[int]:
    (port,) = free_ports(1)
    process = subprocess.Popen([sys.executable, str(ECHO), str(port)], stdout=subprocess.DEVNULL)
    try:
        yield port
    finally:
        process.terminate()
        process.wait(10)


@contextlib.asynccontextmanager
async def _open(host: str, port: int, path: str, tool: str, key: str) -> AsyncIterator[Call]:
    """One kept connection, with as little of a client as there can be: it must not be what is measured."""
    params = {"name": tool, "arguments": {"text": TEXT}, "_meta": _META}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
    headers = {
        "host": f"{host}:{port}",
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "tools/call",
        "mcp-name": tool,
        "content-length": str(len(body)),
        **({"x-api-key": key} if key else {}),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = f"POST {path} HTTP/1.1\r\n{head}\r\n{body}".encode()
    kept = [await _connect(host, port)]

    async def call() -> None:
        if kept[0][0].at_eof():
            # Servers close connections that were idle for some seconds, while others were measured.
            kept[0][1].close()
            kept[0] = await _connect(host, port)
        reader, writer = kept[0]
        writer.write(request)
        async with asyncio.timeout(10):
            answer = await reader.readuntil(b"\r\n\r\n")
            content = await _content(reader, answer.lower())
        if not answer.startswith(b"HTTP/1.1 200") or TEXT.encode() not in content:
            raise RuntimeError((answer.split(b"\r\n", 1)[0] + b" " + content[:200]).decode())

    try:
        yield call
    finally:
        kept[0][1].close()


async def _connect(host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with asyncio.timeout(20):
        while True:
            try:
                return await asyncio.open_connection(host, port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.05)  # it is being started


async def _content(reader: asyncio.StreamReader, head: bytes) -> bytes:
    for line in head.split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return await reader.readexactly(int(line[15:]))
    pieces = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        pieces += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return pieces
