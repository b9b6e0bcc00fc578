"""How the cost of one change grows with the number of services: a table, a slope, and a plot in results/growth.svg."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import linear_regression, median

from benchmarks.ads_pair import running_pair
from benchmarks.report import RESULTS, Figure, at_most

SIZES = (100, 300, 1000, 3000, 10_000)
ROUNDS = 100
CALLERS = 10
PROXIES_OF_EACH = 10
UPSTREAMS = 9
_CHANGING = "s0"
"""Only the first caller has it."""
_MOST_SLOPE = 0.5
"""Cost that does not depend on the mesh has slope 0 on logarithmic axes, cost in proportion to it has slope 1."""


@dataclass(frozen=True, slots=True)
class Point:
    """What one change cost in a mesh of `services`: seconds to the last ACK, and CPU seconds of the server."""

    services: int
    seconds: float
    cpu: float


async def measure() -> list[Figure]:
    """The same change, with the same proxies, in meshes of 100 to 10,000 services of three instances."""
    points = [await _measure_at(size) for size in SIZES]
    slopes = {
        "time to ACK": _slope([(point.services, point.seconds) for point in points]),
        "server CPU": _slope([(point.services, point.cpu) for point in points]),
    }
    RESULTS.with_name("growth.svg").write_text(_plot(points))
    first = points[0]
    rows = [
        Figure(
            f"change to {PROXIES_OF_EACH} ACKs, {point.services} services",
            round(point.seconds * 1e3, 2),
            "ms",
            f"{point.seconds / first.seconds:.2f} x that of {first.services}; server CPU {point.cpu * 1e3:.2f} ms",
        )
        for point in points
    ]
    baseline = f"{SIZES[0]} to {SIZES[-1]} services, on logarithmic axes; 1 is in proportion to the mesh"
    return rows + [
        at_most(f"growth of {name} per change, slope", slope, "", _MOST_SLOPE, baseline=baseline)
        for name, slope in slopes.items()
    ]


async def _measure_at(size: int) -> Point:
    callers = {
        f"caller-{number}": [f"s{number * UPSTREAMS + place}" for place in range(UPSTREAMS)]
        for number in range(CALLERS)
    }
    seconds = []
    async with running_pair(size, callers, dict.fromkeys(callers, PROXIES_OF_EACH)) as pair:
        before = (await pair.server.ask(cost=True))["cpu"]
        for _ in range(ROUNDS):
            await pair.load.ask(mark=True)
            await pair.server.ask(change=[_CHANGING])
            await pair.load.ask(wait=PROXIES_OF_EACH)
            seconds.append((await pair.server.ask(acked=PROXIES_OF_EACH))["seconds"])
        cpu = (await pair.server.ask(cost=True))["cpu"] - before
    return Point(size, median(seconds), cpu / ROUNDS)


def _slope(pairs: Sequence[tuple[float, float]]) -> float:
    return linear_regression([math.log(x) for x, _ in pairs], [math.log(y) for _, y in pairs]).slope


_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 640, 360, 70, 30, 20, 50
_LEAST, _MOST = 0.1, 1000.0
"""Milliseconds at the ends of the vertical axis."""


def _plot(points: Sequence[Point]) -> str:
    """Milliseconds over services, both logarithmic, with a line of slope 1 to compare with."""
    lines = {
        "time to the last ACK": ("#0969da", [(point.services, point.seconds * 1e3) for point in points]),
        "server CPU": ("#1a7f37", [(point.services, point.cpu * 1e3) for point in points]),
    }
    start = points[0].seconds * 1e3
    lines["in proportion to the mesh"] = (
        "#bbbbbb",
        [(point.services, start * point.services / points[0].services) for point in points],
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="18">Cost of one change of one service, milliseconds</text>',
        f'<text x="{_WIDTH // 2}" y="{_HEIGHT - 10}">services in the mesh</text>',
    ]
    parts += [_grid_line(milliseconds) for milliseconds in (0.1, 1.0, 10.0, 100.0, 1000.0)]
    for point in points:
        x = _x(point.services)
        parts.append(f'<text x="{x:.0f}" y="{_HEIGHT - 30}" text-anchor="middle">{point.services}</text>')
    for number, (name, (colour, pairs)) in enumerate(lines.items()):
        path = " ".join(f"{_x(x):.1f},{_y(y):.1f}" for x, y in pairs)
        y = _TOP + 18 + 16 * number
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{_LEFT + 12}" y="{y}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>\n"])


def _grid_line(milliseconds: float) -> str:
    y = _y(milliseconds)
    return (
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#eeeeee"/>'
        f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{milliseconds:g}</text>'
    )


def _x(services: float) -> float:
    share = math.log(services / SIZES[0]) / math.log(SIZES[-1] / SIZES[0])
    return _LEFT + 20 + share * (_WIDTH - _LEFT - _RIGHT - 40)


def _y(milliseconds: float) -> float:
    share = math.log(min(_MOST, max(_LEAST, milliseconds)) / _LEAST) / math.log(_MOST / _LEAST)
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)
