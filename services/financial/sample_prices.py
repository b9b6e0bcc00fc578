"""Makes the sample price histories: `python -m services.financial.sample_prices` writes them anew.

They are synthetic. A seeded random walk, the same on every run, stands for a market; two made-up securities follow it
with a given beta. They show nothing about any real market.
"""

import math
import random
from datetime import date, timedelta
from pathlib import Path

from services.financial.prices import SAMPLE_DIRECTORY

__all__ = ["build_samples", "write_samples"]

_SEED = 20_260_728
_START = date(2023, 1, 2)
_DAYS = 522  # two years of weekdays
_MARKET_DRIFT, _MARKET_VOLATILITY = 0.0003, 0.009  # of a day
# symbol: beta, drift and own volatility of a day, first price
_SECURITIES = {
    "SAMPLE-MARKET": (1.0, 0.0, 0.0, 1000.0),
    "SAMPLE-STEADY": (0.5, 0.0001, 0.004, 50.0),
    "SAMPLE-SWING": (1.6, 0.0002, 0.015, 120.0),
}
_NOTE = "# SYNTHETIC sample data from a seeded random walk (services/financial/sample_prices.py); no real security"


def build_samples() -> dict[str, str]:
    """CSV text by symbol; the same text on every call."""
    source = random.Random(_SEED)  # noqa: S311 - reproducible on purpose
    market = [source.gauss(_MARKET_DRIFT, _MARKET_VOLATILITY) for _ in range(_DAYS - 1)]
    days = _list_weekdays()
    return {
        symbol: _build_csv(days, first, [beta * move + drift + source.gauss(0.0, own) for move in market])
        for symbol, (beta, drift, own, first) in _SECURITIES.items()
    }


def _list_weekdays() -> list[date]:
    days = (_START + timedelta(days=offset) for offset in range(_DAYS * 7 // 5 + 7))
    return [day for day in days if day.weekday() < 5][:_DAYS]


def _build_csv(days: list[date], first: float, moves: list[float]) -> str:
    level = math.log(first)
    lines = [_NOTE, "date,close", f"{days[0]},{first:.2f}"]
    for day, move in zip(days[1:], moves, strict=True):
        level += move
        lines.append(f"{day},{math.exp(level):.2f}")
    return "\n".join(lines) + "\n"


def write_samples(directory: Path) -> None:
    """Write the samples as SYMBOL.csv files."""
    for symbol, text in build_samples().items():
        (directory / f"{symbol}.csv").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_samples(SAMPLE_DIRECTORY)
