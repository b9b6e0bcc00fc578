"""What the edge costs each call: authentication, a decision, limits here and shared ones, the firewall, the audit.

direct    the bridge's own socket, without any Envoy
grpc      gRPC through the edge          ┐
rest      REST through the edge          ├ with an API key, everything on
graphql   a query that the gateway answers ┘
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

import grpc

from agentmesh.mcp.v1 import mcp_bridge_service_pb2 as mcp
from agentmesh.mcp.v1 import mcp_bridge_service_pb2_grpc as mcp_grpc
from benchmarks.mesh_under_test import Mesh, running_mesh
from benchmarks.report import Figure, at_least, at_most, median_ratio, quantile

MESH = Path(__file__).with_name("edge.yaml")
ROUNDS = 15
CALLS_IN_A_ROW = 60
SUSTAINED_SECONDS = 10.0
AT_ONCE = 32
WARM_UP = 500
COSTS_SECONDS = 2.0
COSTS_ROUNDS = 5

EVERYTHING = {
    "access": {"bindings": {"everybody": None}},
    "edge": {
        "limits": {
            "per-client": {"per": ["client"], "requests": 100_000, "burst": 100_000},
            "per-principal": {"scope": "global", "per": ["principal"], "requests": 1_000_000, "window": "60s"},
        }
    },
}
# What is taken away to see what it costs.
WITHOUT: dict[str, dict[str, Any]] = {
    "shared limits": {"edge": {"limits": {"per-principal": None}}},
    "limits per client": {"edge": {"limits": {"per-client": None}}},
    "firewall": {"edge": {"firewall": {"enabled": False}}},
    "audit of what is allowed": {"access": {"audit": {"reads": False}}},
    "compression": {"edge": {"compression": False}},
}
KEPT = {"edge": {"cache": {"lists": {"methods": ["agentmesh.mcp.v1.McpBridgeService/ListTools"], "ttl": "60s"}}}}

Call = Callable[[], Awaitable[None]]


async def measure() -> list[Figure]:
    """Latency one call at a time in rounds that alternate, load for some seconds, and the cost of each part."""
    with running_mesh(MESH) as mesh:
        apply_document(mesh, EVERYTHING)
        key = json.loads(meshctl_of(mesh, "keys", "create", "--role", "caller", "--output", "json"))["secret"]
        async with contextlib.AsyncExitStack() as stack:
            direct = await stack.enter_async_context(_open_direct(mesh))
            by_grpc = await stack.enter_async_context(_open_grpc(mesh, key))
            figures = await _added(stack, mesh, key, direct, by_grpc)
            figures += await _sustained("gRPC", [by_grpc] * AT_ONCE)
            rest = [await stack.enter_async_context(_open_rest(mesh, key)) for _ in range(AT_ONCE)]
            figures += await _sustained("REST", rest)
            figures += await _costs(mesh, rest)
            lists = [await stack.enter_async_context(_open_list(mesh, key)) for _ in range(AT_ONCE)]
            figures += await _kept(mesh, lists)
    return figures


async def _added(stack: contextlib.AsyncExitStack, mesh: Mesh, key: str, direct: Call, by_grpc: Call) -> list[Figure]:
    ways = {
        "direct": direct,
        "gRPC": by_grpc,
        "REST": await stack.enter_async_context(_open_rest(mesh, key)),
        "GraphQL": await stack.enter_async_context(_open_graphql(mesh, key)),
    }
    p50: dict[str, list[float]] = {name: [] for name in ways}
    p99: dict[str, list[float]] = {name: [] for name in ways}
    for call in ways.values():
        for _ in range(CALLS_IN_A_ROW):
            await call()
    for _ in range(ROUNDS):
        for name, call in ways.items():
            times = [await timed(call) for _ in range(CALLS_IN_A_ROW)]
            p50[name].append(quantile(times, 0.5))
            p99[name].append(quantile(times, 0.99))
    figures = []
    for name in ways:
        if name == "direct":
            continue
        base = f"direct call: p50 {median(p50['direct']) * 1e3:.2f} ms, p99 {median(p99['direct']) * 1e3:.2f} ms"
        added50 = median(own - other for own, other in zip(p50[name], p50["direct"], strict=True))
        added99 = median(own - other for own, other in zip(p99[name], p99["direct"], strict=True))
        figures += [
            Figure(f"edge, {name}: added p50", round(added50 * 1e3, 3), "ms", base),
            Figure(f"edge, {name}: added p99", round(added99 * 1e3, 3), "ms", base),
            Figure(f"edge, {name}: p50", round(median_ratio(p50[name], p50["direct"]), 2), "x", base),
        ]
    return figures


async def _sustained(name: str, calls: list[Call]) -> list[Figure]:
    times, failed, seconds = await load(calls, SUSTAINED_SECONDS)
    rate = len(times) / seconds
    base = f"{len(calls)} at a time for {SUSTAINED_SECONDS:g} s, client on the same cores"
    return [
        at_least(f"edge, {name}: sustained", rate, "calls/s", 1000, baseline=base),
        at_most(f"edge, {name}: p95 under load", quantile(times, 0.95) * 1e3, "ms", 200, baseline=base),
        at_most(f"edge, {name}: failed", 100 * failed / max(1, len(times) + failed), "%", 0.1, baseline=base),
    ]


async def _costs(mesh: Mesh, calls: list[Call]) -> list[Figure]:
    """Calls per second without a part over those with all of them, in rounds that alternate."""
    with_all: dict[str, list[float]] = {name: [] for name in WITHOUT}
    without: dict[str, list[float]] = {name: [] for name in WITHOUT}
    for _ in range(COSTS_ROUNDS):
        for name, change in WITHOUT.items():
            for found, document in ((with_all, {}), (without, change)):
                apply_document(mesh, _laid_over(EVERYTHING, document))
                times, _, seconds = await load(calls, COSTS_SECONDS)
                found[name].append(len(times) / seconds)
    return [
        Figure(
            f"edge, REST: throughput without {name}",
            round(median_ratio(without[name], with_all[name]), 3),
            "x",
            f"with all of it: {median(with_all[name]):.0f} calls/s",
        )
        for name in WITHOUT
    ]


async def _kept(mesh: Mesh, calls: list[Call]) -> list[Figure]:
    """What it is worth to keep the answers of a read, in rounds that alternate."""
    fresh: dict[str, list[float]] = {"rate": [], "p50": []}
    kept: dict[str, list[float]] = {"rate": [], "p50": []}
    for _ in range(COSTS_ROUNDS):
        for found, document in ((fresh, {}), (kept, KEPT)):
            apply_document(mesh, _laid_over(EVERYTHING, document))
            times, _, seconds = await load(calls, COSTS_SECONDS)
            found["rate"].append(len(times) / seconds)
            found["p50"].append(quantile(times, 0.5))
    base = f"answered by the server: {median(fresh['rate']):.0f} calls/s, p50 {median(fresh['p50']) * 1e3:.1f} ms"
    return [
        Figure(
            "edge, REST: throughput of kept answers", round(median_ratio(kept["rate"], fresh["rate"]), 2), "x", base
        ),
        Figure("edge, REST: p50 of kept answers under load", round(median(kept["p50"]) * 1e3, 2), "ms", base),
    ]


async def load(calls: list[Call], seconds: float) -> tuple[list[float], int, float]:
    """Calls without a pause: their times, how many failed, and the seconds that it took."""
    times: list[float] = []
    failed = 0
    started = time.perf_counter()

    async def work(call: Call) -> None:
        nonlocal failed
        while time.perf_counter() - started < seconds:
            try:
                times.append(await timed(call))
            except (grpc.aio.AioRpcError, RuntimeError, OSError):
                failed += 1

    await asyncio.gather(*(work(call) for call in calls))
    return times, failed, time.perf_counter() - started


async def timed(call: Call) -> float:
    """The seconds that a call takes."""
    started = time.perf_counter()
    await call()
    return time.perf_counter() - started


@contextlib.asynccontextmanager
async def _open_direct(mesh: Mesh) -> AsyncIterator[Call]:
    async with grpc.aio.insecure_channel(f"unix:{mesh.run_dir('utilities-1') / 'app.sock'}") as channel:
        yield _get_server(channel, ())


@contextlib.asynccontextmanager
async def _open_grpc(mesh: Mesh, key: str) -> AsyncIterator[Call]:
    async with grpc.aio.insecure_channel(mesh.gateway) as channel:
        yield _get_server(channel, (("x-mesh-service", "utilities"), ("x-api-key", key)))


def _get_server(channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...]) -> Call:
    stub: Any = mcp_grpc.McpBridgeServiceStub(channel)

    async def call() -> None:
        await stub.GetServer(mcp.GetServerRequest(), metadata=metadata, timeout=10)

    return call


def _open_rest(mesh: Mesh, key: str) -> contextlib.AbstractAsyncContextManager[Call]:
    return _open_http(mesh, f"GET /v1/servers/utilities HTTP/1.1\r\nhost: edge\r\nx-api-key: {key}\r\n\r\n".encode())


def _open_list(mesh: Mesh, key: str) -> contextlib.AbstractAsyncContextManager[Call]:
    path = "/v1/servers/utilities/tools"
    return _open_http(mesh, f"GET {path} HTTP/1.1\r\nhost: edge\r\nx-api-key: {key}\r\n\r\n".encode())


def _open_graphql(mesh: Mesh, key: str) -> contextlib.AbstractAsyncContextManager[Call]:
    body = json.dumps({"query": '{ service(name: "utilities") { name kind instances { id healthy } } }'})
    head = f"POST /graphql HTTP/1.1\r\nhost: edge\r\nx-api-key: {key}\r\ncontent-type: application/json\r\n"
    return _open_http(mesh, f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())


@contextlib.asynccontextmanager
async def _open_http(mesh: Mesh, request: bytes) -> AsyncIterator[Call]:
    """One kept connection, with as little of a client as there can be: it must not be what is measured."""
    host, _, port = mesh.gateway.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))

    async def call() -> None:
        writer.write(request)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(length)
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.split(b"\r\n", 1)[0].decode())

    try:
        yield call
    finally:
        writer.close()


def apply_document(mesh: Mesh, document: dict[str, Any]) -> None:
    """Put a mesh document in force."""
    path = mesh.state_dir / "edge-document.json"
    path.write_text(json.dumps(document))
    meshctl_of(mesh, "apply", "--yes", str(path))


def meshctl_of(mesh: Mesh, *arguments: str) -> str:
    """What a command of meshctl prints. Raises RuntimeError when it fails."""
    done = mesh.meshctl(*arguments)
    if done.returncode:
        raise RuntimeError(f"meshctl {arguments[0]}: {done.stderr}")
    return done.stdout


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    made = dict(below)
    for name, value in above.items():
        known = made.get(name)
        made[name] = _laid_over(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return made
