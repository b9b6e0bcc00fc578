"""The portfolio_statistics tool: reads its series from CSV text, from the arguments or from the price folder."""

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import FailFast, Field

from services.financial.limits import MAX_CELLS, MAX_CSV_BYTES, MAX_NAMES, MAX_POINTS, Money
from services.financial.portfolio import PortfolioStatistics, Terms, compute_statistics
from services.financial.price_table import PriceTable, check_names, parse_price_csv
from services.financial.prices import PriceFolder
from services.tool_server import InvalidArgument

__all__ = ["build_portfolio_tool"]

Name = Annotated[str, Field(max_length=64)]
Csv = Annotated[
    str,
    Field(
        max_length=MAX_CSV_BYTES,
        description='CSV text: a header such as "date,AAA,BBB", a row for each date; the dates may be left out',
    ),
]
Values = Annotated[list[Money], FailFast(), Field(max_length=MAX_POINTS)]
Series = Annotated[
    dict[Name, Values] | None,
    Field(max_length=MAX_NAMES, description="series by name, all of one length, instead of csv"),
]
Symbols = Annotated[
    list[Name] | None,
    Field(max_length=MAX_NAMES, description="symbols of prices:// resources, instead of csv"),
]
Meaning = Annotated[Literal["prices", "returns"], Field(description="what csv or series holds")]
Benchmark = Annotated[Name, Field(description="name of the series that beta is measured against")]
Weights = Annotated[
    dict[Name, Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]] | None,
    Field(
        max_length=MAX_NAMES,
        description="share of each series, summing to 1; by default equal, without the benchmark",
    ),
]
PeriodsPerYear = Annotated[
    float, Field(ge=1, le=100_000, allow_inf_nan=False, description="252 for trading days, 52 for weeks, 12 for months")
]
RiskFreeRate = Annotated[float, Field(ge=-1, le=10, allow_inf_nan=False, description="per year, as a fraction")]


def build_portfolio_tool(folder: PriceFolder) -> Callable[..., PortfolioStatistics]:
    """The tool function, which finds `symbols` in `folder`."""

    def portfolio_statistics(
        csv: Csv = "",
        series: Series = None,
        symbols: Symbols = None,
        values: Meaning = "prices",
        benchmark: Benchmark = "",
        weights: Weights = None,
        periods_per_year: PeriodsPerYear = 252.0,
        risk_free_rate: RiskFreeRate = 0.0,
    ) -> PortfolioStatistics:
        """Annualised return, volatility, Sharpe ratio, drawdown, beta and correlations of series and their portfolio.

        Give exactly one of csv, series and symbols. The portfolio is rebalanced to its weights every period.
        """
        table = _choose_table(folder, csv, series, symbols)
        terms = Terms(benchmark, weights, periods_per_year, risk_free_rate)
        return compute_statistics(table, terms, are_returns=values == "returns" and not symbols)

    return portfolio_statistics


def _choose_table(
    folder: PriceFolder, csv: str, series: dict[str, list[float]] | None, symbols: list[str] | None
) -> PriceTable:
    given = [name for name, value in (("csv", csv), ("series", series), ("symbols", symbols)) if value]
    if len(given) != 1:
        what = f"{' and '.join(given)} are given together" if given else "there is no series"
        raise InvalidArgument("csv, series, symbols", f"{what}.", "Give exactly one of them, and not an empty one.")
    if csv:
        return parse_price_csv(csv, field="csv")
    if symbols:
        check_names(symbols, "symbols")
        return folder.load(symbols)
    return _check_series(series or {})


def _check_series(series: dict[str, list[float]]) -> PriceTable:
    check_names(series, "series")
    lengths = {name: len(column) for name, column in series.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} {length}" for name, length in list(lengths.items())[:5])
        raise InvalidArgument("series", f"the lengths differ: {shown}.", "Give each series a value for every date.")
    if sum(lengths.values()) > MAX_CELLS:
        raise InvalidArgument(
            "series", f"{sum(lengths.values())} numbers; at most {MAX_CELLS} are read.", "Give a shorter span."
        )
    return PriceTable(series)
