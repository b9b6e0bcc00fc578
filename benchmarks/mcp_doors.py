"""What a tool call costs through the edge, compared with a call to the server itself over HTTP.

direct    the echo server's own HTTP endpoint: FastMCP with its defaults
stdio     the same server behind a bridge over stdio   ┐ through the edge: an API key, a decision for the tool, limits,
http      the same server behind a bridge over HTTP    ┘ the firewall, the audit, mTLS between the sidecars

In both eras of the protocol. Client, server, gateway, sidecars and bridge share the machine's cores.
"""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.edge import Call, apply_document, load, meshctl_of, timed
from benchmarks.mcp_host import HANDSHAKE, MODERN, Way, open_host
from benchmarks.mesh_under_test import Mesh, running_mesh
from benchmarks.peers import ECHO, echo_server, fastmcp
from benchmarks.report import Figure, at_least, at_most, median_ratio, quantile

AT_ONCE = 8
DOCUMENT = {
    "access": {"bindings": {"everybody": None}},
    "edge": {"limits": {"per-client": {"per": ["client"], "requests": 100_000, "burst": 100_000}}},
}
_ROUNDS = 6
_CALLS_IN_A_ROW = 60
_LOAD_SECONDS = 3.0
_GOALS = {"stdio": 1.0, "http": 0.8, "federated stdio": 1.0}


async def measure() -> list[Figure]:
    """Latency one call at a time, and throughput of eight clients, in rounds that alternate."""
    figures: list[Figure] = []
    with echo_server() as port, mesh_with_echo(port) as mesh:
        for era in (MODERN, HANDSHAKE):
            ways = {"direct": Way("127.0.0.1", port, "/mcp", era=era), **ways_of(mesh, era)}
            async with contextlib.AsyncExitStack() as stack:
                calls = {
                    name: [await stack.enter_async_context(open_host(way)) for _ in range(AT_ONCE)]
                    for name, way in ways.items()
                }
                for each in calls.values():
                    await load(each, 1.0)
                figures += await _compare(calls, era)
    return figures


def ways_of(mesh: Mesh, era: str) -> dict[str, Way]:
    """The ways through the edge of a mesh, with a key of their own."""
    secret = json.loads(meshctl_of(mesh, "keys", "create", "--role", "caller", "--output", "json"))["secret"]
    host, _, port = mesh.gateway.partition(":")
    key = {"x-api-key": secret}
    return {
        "stdio": Way(host, int(port), "/servers/echo-stdio/mcp", "echo", key, era),
        "http": Way(host, int(port), "/servers/echo-http/mcp", "echo", key, era),
        "federated stdio": Way(host, int(port), "/mcp", "echo-stdio__echo", key, era),
    }


@contextlib.contextmanager
def mesh_with_echo(port: int) -> Iterator[Mesh]:
    """A mesh with the echo server over stdio, and the one that listens at a port."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mesh.yaml"
        services = {
            "echo-stdio": {"kind": "mcp", "command": [str(fastmcp()), str(ECHO)]},
            "echo-http": {"kind": "mcp", "url": f"http://127.0.0.1:{port}/mcp"},
        }
        file.write_text(json.dumps({"services": services}))
        with running_mesh(file) as mesh:
            apply_document(mesh, DOCUMENT)
            yield mesh


async def _compare(calls: dict[str, list[Call]], era: str) -> list[Figure]:
    p50: dict[str, list[float]] = {name: [] for name in calls}
    rate: dict[str, list[float]] = {name: [] for name in calls}
    failed = 0
    for _ in range(_ROUNDS):
        for name, each in calls.items():
            times = [await timed(each[0]) for _ in range(_CALLS_IN_A_ROW)]
            p50[name].append(quantile(times, 0.5))
            loaded, lost, seconds = await load(each, _LOAD_SECONDS)
            rate[name].append(len(loaded) / seconds)
            failed += lost
    base = (
        f"direct: p50 {median(p50['direct']) * 1e3:.2f} ms, {median(rate['direct']):.0f} calls/s at {AT_ONCE} clients"
    )
    figures = []
    for name, goal in _GOALS.items():
        added = median(own - other for own, other in zip(p50[name], p50["direct"], strict=True))
        share = median_ratio(rate[name], rate["direct"])
        figures += [
            at_least(f"MCP {era}, {name}: throughput over direct", share, "x", goal, baseline=base),
            at_most(f"MCP {era}, {name}: added p50", added * 1e3, "ms", 1.5, baseline=base),
        ]
    return [*figures, at_most(f"MCP {era}: calls that failed", failed, "calls", 0, baseline=base)]
