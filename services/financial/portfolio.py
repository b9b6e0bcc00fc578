"""Return, risk and dependence of price series, and of a portfolio of them that is rebalanced every period."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from services.financial.limits import check_bounded
from services.financial.price_table import PriceTable
from services.tool_server import InvalidArgument, Result, quote

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float64]

__all__ = ["CorrelationMatrix", "PortfolioStatistics", "SeriesStatistics", "Terms", "compute_statistics"]

PORTFOLIO = "portfolio"

_FLAT = 1e-12  # a smaller standard deviation is rounding, not risk
_FEWEST_RETURNS = 2


class SeriesStatistics(Result):
    name: str
    total_return: float = Field(description="over the whole span, as a fraction")
    annualised_return: float = Field(description="geometric")
    annualised_volatility: float = Field(description="sample standard deviation of the returns, annualised")
    sharpe_ratio: float | None = Field(
        description="annualised mean return above the risk-free rate over volatility; null when there is no volatility"
    )
    max_drawdown: float = Field(description="largest fall from a peak as a positive fraction: 0.25 is 25 %")
    peak: str | None = Field(
        description="when that fall began: a date, without dates the position from 0; null when nothing fell"
    )
    trough: str | None = Field(description="when it was deepest")
    beta: float | None = Field(description="against the benchmark; null without one, or when it does not move")


class CorrelationMatrix(Result):
    names: list[str]
    rows: list[list[float | None]] = Field(description="in the order of names; null where a series does not move")


class PortfolioStatistics(Result):
    returns: int = Field(description="number of returns of each series")
    weights: dict[str, float]
    portfolio: SeriesStatistics
    series: list[SeriesStatistics]
    correlation: CorrelationMatrix


@dataclass(frozen=True, slots=True)
class Terms:
    """How to look at the series."""

    benchmark: str = ""
    weights: Mapping[str, float] | None = None
    periods_per_year: float = 252.0
    risk_free_rate: float = 0.0


def compute_statistics(table: PriceTable, terms: Terms, *, are_returns: bool = False) -> PortfolioStatistics:
    """Statistics of each series and of the portfolio.

    The Sharpe ratio is that of Sharpe (1994): the mean of the returns above the risk-free rate over the standard
    deviation, scaled by the square root of the periods in a year. Raises InvalidArgument.
    """
    import numpy as np

    names = list(table.series)
    if terms.benchmark and terms.benchmark not in table.series:
        raise InvalidArgument(
            "benchmark", f"there is no series {quote(terms.benchmark)}.", f"Use one of {', '.join(names[:8])}."
        )
    returns = _build_returns(table, are_returns=are_returns)
    weights = _build_weights(names, terms)
    blend = np.asarray([weights.get(name, 0.0) for name in names]) @ np.stack([returns[name] for name in names])
    if (blend <= -1).any():
        raise InvalidArgument("weights", "the portfolio loses all its worth within a period.", "Use less leverage.")
    market = returns[terms.benchmark] if terms.benchmark else None
    # There is one level of wealth more than there are returns: with prices, the first of them.
    labels = list(table.dates) or [str(position) for position in range(len(next(iter(table.series.values()))))]
    if are_returns:
        labels = ["start", *labels]
    return PortfolioStatistics(
        returns=len(blend),
        weights=weights,
        portfolio=_describe(PORTFOLIO, blend, market, terms, labels),
        series=[_describe(name, returns[name], market, terms, labels) for name in names],
        correlation=_correlate(returns),
    )


def _build_returns(table: PriceTable, *, are_returns: bool) -> "dict[str, Vector]":
    import numpy as np

    returns = {}
    for name, values in table.series.items():
        row = np.asarray(values, dtype=np.float64)
        low, what = (-1.0, "return") if are_returns else (0.0, "price")
        wrong = np.flatnonzero(row <= low)
        if wrong.size:
            raise InvalidArgument(
                f"series {quote(name)}",
                f"value {int(wrong[0]) + 1} is {row[wrong[0]]:g}; a {what} must be above {low:g}.",
                "Leave such rows out, or say whether the values are prices or returns.",
            )
        with np.errstate(over="ignore"):
            change = row if are_returns else row[1:] / row[:-1] - 1.0
        if len(change) < _FEWEST_RETURNS:
            raise InvalidArgument(
                f"series {quote(name)}",
                f"{len(row)} {what}s are too few.",
                f"Give at least {_FEWEST_RETURNS if are_returns else _FEWEST_RETURNS + 1}.",
            )
        check_bounded(float(change.max()), f"series {quote(name)}")
        returns[name] = change
    return returns


def _build_weights(names: Sequence[str], terms: Terms) -> dict[str, float]:
    if terms.weights is None:
        held = [name for name in names if name != terms.benchmark] or list(names)
        return {name: 1.0 / len(held) for name in held}
    unknown = [name for name in terms.weights if name not in names]
    if unknown:
        raise InvalidArgument(
            "weights", f"there is no series {quote(unknown[0])}.", f"Use names among {', '.join(names[:8])}."
        )
    total = sum(terms.weights.values())
    if abs(total - 1.0) > 1e-6:
        raise InvalidArgument("weights", f"they sum to {total:g}.", "Make them sum to 1.")
    return dict(terms.weights)


def _describe(
    name: str, returns: "Vector", market: "Vector | None", terms: Terms, labels: Sequence[str]
) -> SeriesStatistics:
    import numpy as np

    years = len(returns) / terms.periods_per_year
    # Wealth is summed in logarithms, so that thousands of large returns do not leave the range of a number.
    growth = np.concatenate([[0.0], np.cumsum(np.log1p(returns))])
    with np.errstate(over="ignore"):
        total, annualised = float(np.expm1(growth[-1])), float(np.expm1(growth[-1] / years))
    deviation = float(returns.std(ddof=1))
    excess = float(returns.mean()) - terms.risk_free_rate / terms.periods_per_year
    scale = terms.periods_per_year**0.5
    falls = growth - np.maximum.accumulate(growth)
    trough = int(falls.argmin())
    peak = int(growth[: trough + 1].argmax())
    return SeriesStatistics(
        name=name,
        total_return=check_bounded(total, f"series {quote(name)}"),
        annualised_return=check_bounded(annualised, "periods_per_year"),
        annualised_volatility=deviation * scale,
        sharpe_ratio=excess / deviation * scale if deviation > _FLAT else None,
        max_drawdown=float(-np.expm1(falls[trough])) + 0.0,
        peak=labels[peak] if peak != trough else None,
        trough=labels[trough] if peak != trough else None,
        beta=_find_beta(returns, market),
    )


def _find_beta(returns: "Vector", market: "Vector | None") -> float | None:
    import numpy as np

    if market is None or float(market.std(ddof=1)) <= _FLAT:
        return None
    return float(np.cov(returns, market, ddof=1)[0, 1] / market.var(ddof=1))


def _correlate(returns: "Mapping[str, Vector]") -> CorrelationMatrix:
    import numpy as np

    names = list(returns)
    moving = [name for name in names if float(returns[name].std(ddof=1)) > _FLAT]
    known = np.atleast_2d(np.corrcoef(np.stack([returns[name] for name in moving]))) if moving else np.empty((0, 0))
    at = {name: index for index, name in enumerate(moving)}
    rows = [
        [float(known[at[one], at[other]]) if one in at and other in at else None for other in names] for one in names
    ]
    return CorrelationMatrix(names=names, rows=rows)
