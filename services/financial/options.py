"""European options by Black, Scholes and Merton (1973), with a continuous dividend yield."""

import math
from typing import Annotated, Literal

from pydantic import Field

from services.financial.limits import check_bounded
from services.financial.roots import find_root
from services.tool_server import InvalidArgument, Result

__all__ = ["ImpliedVolatility", "OptionPrice", "implied_volatility", "option_price"]

_LOWEST_VOLATILITY = 1e-6
_HIGHEST_VOLATILITY = 10.0
_DAYS_OF_YEAR = 365.0

Kind = Annotated[Literal["call", "put"], Field(description="the right to buy or to sell")]
Spot = Annotated[float, Field(ge=1e-9, le=1e12, allow_inf_nan=False, description="price of the underlying now")]
Strike = Annotated[float, Field(ge=1e-9, le=1e12, allow_inf_nan=False, description="exercise price")]
Years = Annotated[float, Field(ge=1e-6, le=100, allow_inf_nan=False, description="time to expiry in years")]
Rate = Annotated[
    float, Field(gt=-1, le=5, allow_inf_nan=False, description="risk-free yearly rate, continuously compounded")
]
DividendYield = Annotated[
    float, Field(ge=-1, le=5, allow_inf_nan=False, description="yearly dividend yield, continuously compounded")
]
Volatility = Annotated[
    float,
    Field(
        ge=_LOWEST_VOLATILITY,
        le=_HIGHEST_VOLATILITY,
        allow_inf_nan=False,
        description="yearly standard deviation of the log return, 0.2 is 20 %",
    ),
]


class OptionPrice(Result):
    price: float
    delta: float = Field(description="change of the price per 1.00 of the underlying")
    gamma: float = Field(description="change of delta per 1.00 of the underlying")
    vega: float = Field(description="change of the price per 1.00 (100 percentage points) of volatility")
    theta: float = Field(description="change of the price per year that passes")
    theta_per_day: float = Field(description="theta over 365")
    rho: float = Field(description="change of the price per 1.00 (100 percentage points) of the rate")


class ImpliedVolatility(Result):
    implied_volatility: float = Field(description="yearly volatility at which the model gives the price")


def option_price(
    kind: Kind,
    spot: Spot,
    strike: Strike,
    years: Years,
    volatility: Volatility,
    rate: Rate,
    dividend_yield: DividendYield = 0.0,
) -> OptionPrice:
    """Black-Scholes-Merton price of a European option with delta, gamma, vega, theta and rho."""
    side = 1.0 if kind == "call" else -1.0
    forward, present = _discount(spot, dividend_yield, years), _discount(strike, rate, years)
    spread = volatility * math.sqrt(years)
    d1 = (math.log(spot / strike) + (rate - dividend_yield) * years) / spread + spread / 2
    d2 = d1 - spread
    density = math.exp(-d1 * d1 / 2) / math.sqrt(2 * math.pi)
    theta = (
        -forward * density * volatility / (2 * math.sqrt(years))
        - side * rate * present * _normal(side * d2)
        + side * dividend_yield * forward * _normal(side * d1)
    )
    values = {
        "price": side * (forward * _normal(side * d1) - present * _normal(side * d2)),
        "delta": side * forward / spot * _normal(side * d1),
        "gamma": forward * density / (spot * spot * spread),
        "vega": forward * density * math.sqrt(years),
        "theta": theta,
        "theta_per_day": theta / _DAYS_OF_YEAR,
        "rho": side * years * present * _normal(side * d2),
    }
    values["price"] = max(values["price"], 0.0)  # far out of the money, cancellation can leave -1e-17
    return OptionPrice(**{name: check_bounded(value, "years") for name, value in values.items()})


def implied_volatility(
    kind: Kind,
    price: Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False, description="market price of the option")],
    spot: Spot,
    strike: Strike,
    years: Years,
    rate: Rate,
    dividend_yield: DividendYield = 0.0,
) -> ImpliedVolatility:
    """The volatility at which Black-Scholes-Merton gives a European option's market price."""
    forward, present = _discount(spot, dividend_yield, years), _discount(strike, rate, years)
    floor, ceiling = (
        (max(forward - present, 0.0), forward) if kind == "call" else (max(present - forward, 0.0), present)
    )

    def miss(volatility: float) -> float:
        return option_price(kind, spot, strike, years, volatility, rate, dividend_yield).price - price

    if not floor < price < ceiling or miss(_LOWEST_VOLATILITY) >= 0:
        raise InvalidArgument(
            "price",
            f"no volatility gives {price:g}: without arbitrage this {kind} is worth more than {floor:g} and less than "
            f"{ceiling:g}.",
            "Check price, strike, years and rate.",
        )
    if miss(_HIGHEST_VOLATILITY) < 0:
        raise InvalidArgument(
            "price",
            f"{price:g} needs a volatility of more than {_HIGHEST_VOLATILITY:.0%} a year.",
            "Check price, strike and years.",
        )
    return ImpliedVolatility(implied_volatility=find_root(miss, _LOWEST_VOLATILITY, _HIGHEST_VOLATILITY))


def _discount(amount: float, rate: float, years: float) -> float:
    return check_bounded(amount * math.exp(-rate * years), "years")


def _normal(value: float) -> float:
    """The standard normal distribution function; erfc keeps its precision far out in the tail."""
    return math.erfc(-value / math.sqrt(2)) / 2
