"""What the tools accept: the limits, and the argument types that state them."""

from typing import Annotated

from pydantic import FailFast, Field

from services.tool_server import InvalidArgument

__all__ = [
    "MAX_CASH_FLOWS",
    "MAX_CELLS",
    "MAX_CSV_BYTES",
    "MAX_MONTHS",
    "MAX_NAMES",
    "MAX_POINTS",
    "MAX_RESULT",
    "CashFlows",
    "Money",
    "PeriodRate",
    "check_bounded",
]

MAX_CASH_FLOWS = 10_000
MAX_MONTHS = 1_200
MAX_CSV_BYTES = 4 * 1024 * 1024
MAX_POINTS = 20_000  # prices or returns in one series: 80 years of trading days
MAX_NAMES = 50  # series in one table
MAX_CELLS = 200_000  # numbers in one table
MAX_RESULT = 1e100  # far from where doubles overflow, so that sums of results do not


Money = Annotated[float, Field(ge=-1e15, le=1e15, allow_inf_nan=False)]
PeriodRate = Annotated[
    float,
    Field(gt=-1, le=100, allow_inf_nan=False, description="rate per period as a fraction: 0.08 is 8 %"),
]
# FailFast: one error for a list of a million words, not a million errors.
CashFlows = Annotated[
    list[Money],
    FailFast(),
    Field(
        min_length=1,
        max_length=MAX_CASH_FLOWS,
        description="one amount per period, the first at time 0; what is paid out is negative",
    ),
]


def check_bounded(value: float, field: str) -> float:
    """Give `value` back; raises InvalidArgument that names `field` when it has left the range of sensible numbers."""
    if not abs(value) <= MAX_RESULT:  # NaN included
        raise InvalidArgument(field, f"the result is larger than {MAX_RESULT:g}.", "Use less extreme values.")
    return value
