"""Prompts that lead a model through the tools."""

from typing import Annotated

from pydantic import Field

__all__ = ["review_portfolio", "value_project"]


def value_project(
    description: Annotated[str, Field(description="what is paid and received, and when", max_length=20_000)],
    discount_rate: Annotated[str, Field(description="cost of capital a year, such as 0.08", max_length=32)] = "0.08",
) -> str:
    """Value a project from its cash flows."""
    return (
        f"Value this project: {description}\n\n"
        "1. Write its cash flows as one list with a flow for every year, the first at time 0, what is paid negative. "
        "Say what you assumed.\n"
        f"2. Call npv with rate {discount_rate} and that list, then irr; if several rates fit, call mirr instead.\n"
        "3. Call npv again with the rate one point lower and one point higher, to show how much hangs on it.\n"
        "4. Recommend to go ahead or not, in three sentences and with the figures."
    )


def review_portfolio(
    symbols: Annotated[str, Field(description="symbols, separated by commas", max_length=2_000)],
    benchmark: Annotated[str, Field(description="symbol to compare with", max_length=64)],
) -> str:
    """Review the risk and return of a portfolio."""
    return (
        f"Review a portfolio of equal parts of {symbols} against {benchmark}.\n\n"
        "1. Read prices://index to see which of these symbols there are.\n"
        f"2. Call portfolio_statistics with those symbols and {benchmark} in symbols, and {benchmark} as benchmark.\n"
        "3. Report return, volatility, Sharpe ratio, the worst drawdown with its dates, and beta in a table.\n"
        "4. Say which series adds most to the risk, judging by the correlation matrix. Say if data is synthetic."
    )
