"""How many tool calls pass through this mesh and through other gateways in the same time, on the same echo server.

The revision is 2025-11-25, with a session for each of eight clients: the newest that all of them speak.
"""

import contextlib

from benchmarks.edge import load, timed
from benchmarks.mcp_doors import AT_ONCE, mesh_with_echo, ways_of
from benchmarks.mcp_host import HANDSHAKE, Way, open_host
from benchmarks.peers import PEERS, echo_server
from benchmarks.report import Figure, at_least, median_ratio, quantile

_ROUNDS = 3
_LOAD_SECONDS = 4.0
_EQUALS = ("FastMCP proxy", "LiteLLM", "ContextForge")
"""Those that have what a gateway is for."""
_GOAL = 10.0


async def measure() -> list[Figure]:
    """Throughput in rounds that alternate between us and one peer after the other."""
    figures: list[Figure] = []
    with echo_server() as port, mesh_with_echo(port) as mesh:
        own = ways_of(mesh, HANDSHAKE)["stdio"]
        for name, start in PEERS.items():
            with start(port) as peer:
                figures.append(await _compare(name, own, peer))
    return figures


async def _compare(name: str, own: Way, peer: Way) -> Figure:
    rates: dict[Way, list[float]] = {own: [], peer: []}
    p50: dict[Way, list[float]] = {own: [], peer: []}
    failed = 0
    async with contextlib.AsyncExitStack() as stack:
        calls = {way: [await stack.enter_async_context(open_host(way)) for _ in range(AT_ONCE)] for way in rates}
        for each in calls.values():
            await load(each, 1.0)
        for _ in range(_ROUNDS):
            for way, each in calls.items():
                p50[way].append(quantile([await timed(each[0]) for _ in range(30)], 0.5))
                times, lost, seconds = await load(each, _LOAD_SECONDS)
                rates[way].append(len(times) / seconds)
                failed += lost
    base = (
        f"{name}: {_middle(rates[peer]):.0f} calls/s, p50 {_middle(p50[peer]) * 1e3:.1f} ms; "
        f"ours {_middle(rates[own]):.0f} calls/s, p50 {_middle(p50[own]) * 1e3:.1f} ms; {failed} failed"
    )
    share = median_ratio(rates[own], rates[peer])
    goal = _GOAL if name in _EQUALS else 1.0
    return at_least(f"MCP: throughput over {name}", share, "x", goal, baseline=base)


def _middle(values: list[float]) -> float:
    return quantile(values, 0.5)
