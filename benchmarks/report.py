"""Figures, how they are shown, and where they are kept."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results" / "latest.json"


@dataclass(frozen=True)
class Figure:
    """One measured figure. `baseline` says what it is compared with; `ok` is None where there is no goal."""

    name: str
    value: float
    unit: str
    baseline: str
    goal: str = ""
    ok: bool | None = None


def at_most(name: str, value: float, unit: str, limit: float, *, baseline: str) -> Figure:
    """A figure whose goal is not to exceed `limit`."""
    return Figure(name, round(value, 4), unit, baseline, f"<= {limit:g}", value <= limit)


def at_least(name: str, value: float, unit: str, limit: float, *, baseline: str) -> Figure:
    """A figure whose goal is not to fall below `limit`."""
    return Figure(name, round(value, 4), unit, baseline, f">= {limit:g}", value >= limit)


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median_ratio(values: Sequence[float], baselines: Sequence[float]) -> float:
    """The median of the ratios, round by round, so that what slows a whole round down cancels out."""
    return statistics.median(value / baseline for value, baseline in zip(values, baselines, strict=True))


def save_figures(figures: Sequence[Figure], *, is_whole: bool) -> None:
    """Write the figures; a partial run replaces those of the same names only."""
    kept: list[dict[str, object]] = []
    if not is_whole and RESULTS.exists():
        measured = {figure.name for figure in figures}
        kept = [figure for figure in json.loads(RESULTS.read_text()) if figure["name"] not in measured]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps([*kept, *map(asdict, figures)], indent=2) + "\n")


def print_figures(figures: Sequence[Figure]) -> None:
    """Print the figures as a table."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("FIGURE", "VALUE", "UNIT", "GOAL", "", "COMPARED WITH"):
        table.add_column(column, justify="right" if column == "VALUE" else "left", no_wrap=True)
    for figure in figures:
        verdict = {None: "", True: "ok", False: "MISSED"}[figure.ok]
        table.add_row(figure.name, f"{figure.value:g}", figure.unit, figure.goal, verdict, figure.baseline)
    Console(width=160).print(table)
