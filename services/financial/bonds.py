"""Price, yield, duration and convexity of a fixed-rate bond.

The street convention: interest compounds at the coupon frequency, within a broken first period too; it accrues
linearly.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from services.financial.limits import check_bounded
from services.financial.roots import find_root
from services.tool_server import InvalidArgument, Result

__all__ = ["BondDuration", "BondPrice", "BondYield", "bond_duration", "bond_price", "bond_yield"]

_WHOLE = 1e-9  # nearer than that to a coupon date counts as on it
_HIGHEST_YIELD = 100.0

CouponRate = Annotated[
    float,
    Field(ge=0, le=10, allow_inf_nan=False, description="coupons of a year as a fraction of face; 0 for a zero bond"),
]
Years = Annotated[
    float, Field(gt=0, le=200, allow_inf_nan=False, description="time to maturity in years; may end within a period")
]
YieldRate = Annotated[
    float,
    Field(
        gt=-1,
        le=_HIGHEST_YIELD,
        allow_inf_nan=False,
        description="nominal yearly yield to maturity, compounded `frequency` times; 0.05 is 5 %",
    ),
]
Face = Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False, description="amount repaid at maturity")]
Price = Annotated[float, Field(gt=0, le=1e15, allow_inf_nan=False, description="clean price, in the unit of face")]
Frequency = Annotated[Literal[1, 2, 4, 12], Field(description="coupons and compounding periods in a year")]


class BondPrice(Result):
    clean_price: float = Field(description="quoted price, without accrued interest")
    dirty_price: float = Field(description="what a buyer pays: present value of all that is still to come")
    accrued_interest: float


class BondYield(Result):
    yield_rate: float = Field(description="nominal yearly yield to maturity, compounded `frequency` times")
    effective_annual_yield: float
    current_yield: float = Field(description="coupons of a year over the clean price")


class BondDuration(Result):
    macaulay_duration: float = Field(description="years")
    modified_duration: float = Field(description="relative fall of the dirty price per 1.00 rise of the yield")
    convexity: float = Field(description="years squared")
    price_value_of_basis_point: float = Field(description="fall of the dirty price when the yield rises by 0.01 %")
    dirty_price: float


@dataclass(frozen=True, slots=True)
class _Bond:
    """Coupons at whole periods counted back from maturity; the first one may be a part of a period away."""

    coupon: float
    face: float
    frequency: int
    count: int
    to_first: float  # in periods, in (0, 1]

    def flows(self) -> Iterator[tuple[float, float]]:
        """Time in periods, and amount."""
        for index in range(self.count):
            yield self.to_first + index, self.coupon + (self.face if index == self.count - 1 else 0.0)

    def accrued(self) -> float:
        return self.coupon * (1.0 - self.to_first)

    def dirty_price(self, yield_rate: float) -> float:
        growth = math.log1p(yield_rate / self.frequency)
        try:
            return math.fsum(amount * math.exp(-time * growth) for time, amount in self.flows())
        except OverflowError:
            return math.inf


def bond_price(
    coupon_rate: CouponRate, years: Years, yield_rate: YieldRate, face: Face = 100.0, frequency: Frequency = 2
) -> BondPrice:
    """Clean and dirty price of a fixed-rate bond from its yield to maturity."""
    bond = _build_bond(coupon_rate, years, face, frequency)
    dirty = check_bounded(bond.dirty_price(yield_rate), "yield_rate")
    return BondPrice(clean_price=dirty - bond.accrued(), dirty_price=dirty, accrued_interest=bond.accrued())


def bond_yield(
    price: Price, coupon_rate: CouponRate, years: Years, face: Face = 100.0, frequency: Frequency = 2
) -> BondYield:
    """Yield to maturity of a fixed-rate bond from its clean price."""
    bond = _build_bond(coupon_rate, years, face, frequency)
    dirty = price + bond.accrued()

    def miss(yield_rate: float) -> float:
        return min(bond.dirty_price(yield_rate), 1e300) - dirty

    # The price falls as the yield rises, so the ends of the range tell whether there is a solution at all.
    lowest = -0.9999
    if miss(lowest) < 0 or miss(_HIGHEST_YIELD) > 0:
        raise InvalidArgument(
            "price",
            f"no yield between {lowest:.2%} and {_HIGHEST_YIELD:.0%} gives a price of {price:g} (face {face:g}).",
            "Give the clean price in the unit of face, not as a fraction of it.",
        )
    solution = find_root(miss, lowest, _HIGHEST_YIELD)
    return BondYield(
        yield_rate=solution,
        effective_annual_yield=math.expm1(frequency * math.log1p(solution / frequency)),
        current_yield=coupon_rate * face / price,
    )


def bond_duration(
    coupon_rate: CouponRate, years: Years, yield_rate: YieldRate, face: Face = 100.0, frequency: Frequency = 2
) -> BondDuration:
    """Macaulay and modified duration, convexity and price value of a basis point of a fixed-rate bond."""
    bond = _build_bond(coupon_rate, years, face, frequency)
    price = check_bounded(bond.dirty_price(yield_rate), "yield_rate")
    step = 1.0 + yield_rate / frequency
    weights = [(time, amount * math.exp(-time * math.log(step))) for time, amount in bond.flows()]
    macaulay = math.fsum(time * value for time, value in weights) / price / frequency
    curvature = math.fsum(time * (time + 1.0) * value for time, value in weights)
    modified = macaulay / step
    return BondDuration(
        macaulay_duration=check_bounded(macaulay, "yield_rate"),
        modified_duration=check_bounded(modified, "yield_rate"),
        convexity=check_bounded(curvature / price / (step * frequency) ** 2, "yield_rate"),
        price_value_of_basis_point=check_bounded(modified * price * 1e-4, "yield_rate"),
        dirty_price=price,
    )


def _build_bond(coupon_rate: float, years: float, face: float, frequency: int) -> _Bond:
    periods = years * frequency
    whole = round(periods)
    count = whole if whole >= 1 and abs(periods - whole) < _WHOLE else math.ceil(periods)
    to_first = 1.0 if count == whole else periods - (count - 1)
    return _Bond(coupon_rate * face / frequency, face, frequency, count, to_first)
