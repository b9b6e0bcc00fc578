"""What one change costs with 1,000 services and 1,000 connected proxies, and what it takes to connect these."""

import asyncio
from statistics import median

from benchmarks.ads_pair import Pair, running_pair
from benchmarks.report import Figure, at_most, quantile

SERVICES = 1000
CALLERS = 20
PROXIES_OF_EACH = 50
UPSTREAMS = 50
ROUNDS = 40
EVERYBODYS = "s0"
"""All callers have it as an upstream."""
ONES = "s1"
"""Only the first caller has it."""
_QUIET = 0.1

PROXIES = CALLERS * PROXIES_OF_EACH


def build_callers() -> dict[str, list[str]]:
    """The upstreams of each caller: everybody's, and others that are its own."""
    own = UPSTREAMS - 1
    return {
        f"caller-{number}": [EVERYBODYS, *(f"s{1 + number * own + n}" for n in range(own))] for number in range(CALLERS)
    }


async def measure() -> list[Figure]:
    """Connect all at once; then move one endpoint that 50 proxies need, and one that all need, again and again."""
    callers = build_callers()
    proxies = dict.fromkeys(callers, PROXIES_OF_EACH)
    async with running_pair(SERVICES, callers, proxies) as pair:
        cold_start = pair.cold_start
        started = await pair.server.ask(cost=True)
        some, strangers, cpu_some = await _change(pair, ONES, PROXIES_OF_EACH)
        everybody, _, cpu_all = await _change(pair, EVERYBODYS, PROXIES)
        ended = await pair.server.ask(cost=True)
    async with running_pair(0, callers, proxies, modes=["bare"]) as pair:
        bare, _, cpu_bare = await _change(pair, EVERYBODYS, PROXIES)
    async with running_pair(SERVICES, callers, proxies, modes=["shared"]) as pair:
        shared, _, cpu_shared = await _change(pair, EVERYBODYS, PROXIES)
    mesh = (
        f"{SERVICES} services x 3 endpoints, {PROXIES} streams, each by its own mutual TLS, {UPSTREAMS} upstreams each"
    )
    each = f"server CPU {cpu_all / PROXIES * 1e6:.0f} us per proxy"
    return [
        Figure(f"cold start of {PROXIES} proxies", round(cold_start, 2), "s", mesh),
        Figure("cold start, server CPU", round(started["cpu"], 2), "s", "program start and certificates included"),
        Figure("cold start, peak memory", round(started["peak"], 1), "MB", mesh),
        at_most("control plane memory at that size", round(ended["resident"], 1), "MB", 300, baseline=mesh),
        at_most(
            f"change to {PROXIES_OF_EACH} ACKs, p50",
            quantile(some, 0.5) * 1e3,
            "ms",
            100,
            baseline=f"p99 {quantile(some, 0.99) * 1e3:.1f} ms, server CPU {cpu_some * 1e3:.1f} ms",
        ),
        at_most("messages to proxies that do not need it", strangers, "", 0, baseline=f"{ROUNDS} changes"),
        at_most(
            f"change to {PROXIES} ACKs, p50",
            quantile(everybody, 0.5) * 1e3,
            "ms",
            250,
            baseline=f"p99 {quantile(everybody, 0.99) * 1e3:.1f} ms, {each}",
        ),
        at_most(
            f"change to {PROXIES} ACKs over {CALLERS} connections, p50",
            quantile(shared, 0.5) * 1e3,
            "ms",
            250,
            baseline=f"p99 {quantile(shared, 0.99) * 1e3:.1f} ms, {cpu_shared / PROXIES * 1e6:.0f} us per proxy",
        ),
        Figure(
            f"change to {PROXIES} ACKs, against bare gRPC",
            round(median(everybody) / median(bare), 2),
            "x",
            f"grpc.aio alone: {median(bare) * 1e3:.1f} ms, {cpu_bare / PROXIES * 1e6:.0f} us per proxy",
        ),
    ]


async def _change(pair: Pair, service: str, concerned: int) -> tuple[list[float], int, float]:
    """Seconds from each change to the last ACK; messages to others; CPU seconds of the server per change."""
    seconds: list[float] = []
    strangers = 0
    cpu = 0.0
    for _ in range(ROUNDS):
        await pair.load.ask(mark=True)
        before = (await pair.server.ask(cost=True))["cpu"]
        await pair.server.ask(change=[service])
        await pair.load.ask(wait=concerned)
        # What comes to those whom it does not concern comes now, if at all.
        await asyncio.sleep(_QUIET)
        cpu += (await pair.server.ask(cost=True))["cpu"] - before
        seconds.append((await pair.server.ask(acked=concerned))["seconds"])
        counts = await pair.load.ask(counts=True)
        strangers += counts["messages"] - concerned
    return seconds, strangers, cpu / ROUNDS
