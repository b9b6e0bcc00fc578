"""Values from J. Hull, Options, Futures, and Other Derivatives: examples 15.6 and 17.1, and chapters 15 and 19."""

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from services.financial.options import Kind, implied_volatility, option_price
from services.tool_server import InvalidArgument

KINDS = st.sampled_from(("call", "put"))
SPOTS = st.floats(1, 1000)
STRIKES = st.floats(1, 1000)
YEARS = st.floats(0.01, 10)
VOLATILITIES = st.floats(0.02, 2)
RATES = st.floats(-0.05, 0.3)


@pytest.mark.parametrize(("kind", "price"), [("call", 4.76), ("put", 0.81)])
def test_the_prices_of_hulls_example_15_6(kind: Kind, price: float) -> None:
    assert option_price(kind, 42, 40, 0.5, 0.2, 0.1).price == pytest.approx(price, abs=0.005)


def test_the_price_of_the_index_option_in_hulls_example_17_1() -> None:
    assert option_price("call", 930, 900, 2 / 12, 0.2, 0.08, 0.03).price == pytest.approx(51.83, abs=0.005)


def test_the_greeks_of_the_call_in_hulls_chapter_19() -> None:
    greeks = option_price("call", 49, 50, 0.3846, 0.2, 0.05)
    assert greeks.delta == pytest.approx(0.522, abs=0.0005)
    assert greeks.gamma == pytest.approx(0.066, abs=0.0005)
    assert greeks.vega == pytest.approx(12.1, abs=0.05)
    assert greeks.theta == pytest.approx(-4.31, abs=0.005)
    assert greeks.theta_per_day == pytest.approx(-0.0118, abs=0.00005)
    assert greeks.rho == pytest.approx(8.91, abs=0.005)


def test_the_implied_volatility_in_hulls_chapter_15() -> None:
    assert implied_volatility("call", 1.875, 21, 20, 0.25, 0.1).implied_volatility == pytest.approx(0.235, abs=0.0005)


@settings(deadline=None)  # the first example may import scipy
@given(SPOTS, STRIKES, YEARS, VOLATILITIES, RATES, RATES)
def test_put_call_parity(spot: float, strike: float, years: float, volatility: float, rate: float, paid: float) -> None:
    call = option_price("call", spot, strike, years, volatility, rate, paid)
    put = option_price("put", spot, strike, years, volatility, rate, paid)
    forward = spot * math.exp(-paid * years) - strike * math.exp(-rate * years)
    assert call.price - put.price == pytest.approx(forward, abs=1e-9 * (spot + strike) * math.exp(0.05 * years))
    assert call.gamma == pytest.approx(put.gamma)
    assert call.vega == pytest.approx(put.vega)


@settings(deadline=None)  # the first example may import scipy
@given(KINDS, SPOTS, st.floats(0.5, 2), st.floats(0.1, 5), st.floats(0.1, 1), RATES, RATES)
def test_the_greeks_are_the_slopes_of_the_price(
    kind: Kind, spot: float, moneyness: float, years: float, volatility: float, rate: float, paid: float
) -> None:
    strike = spot * moneyness
    at = option_price(kind, spot, strike, years, volatility, rate, paid)

    def price(ds: float = 0, dt: float = 0, dv: float = 0, dr: float = 0) -> float:
        return option_price(kind, spot + ds, strike, years + dt, volatility + dv, rate + dr, paid).price

    step = 1e-5
    tolerance = 1e-5 * spot
    assert (price(ds=step * spot) - price(ds=-step * spot)) / (2 * step * spot) == pytest.approx(at.delta, abs=1e-5)
    assert (price(dv=step) - price(dv=-step)) / (2 * step) == pytest.approx(at.vega, abs=tolerance)
    assert (price(dr=step) - price(dr=-step)) / (2 * step) == pytest.approx(at.rho, abs=tolerance)
    assert (price(dt=-step) - price(dt=step)) / (2 * step) == pytest.approx(at.theta, abs=tolerance)


@settings(deadline=None)  # the first example may import scipy
@given(KINDS, SPOTS, STRIKES, YEARS, VOLATILITIES, RATES)
def test_the_implied_volatility_of_a_price_gives_that_price(
    kind: Kind, spot: float, strike: float, years: float, volatility: float, rate: float
) -> None:
    at = option_price(kind, spot, strike, years, volatility, rate)
    assume(at.vega > 1e-3 * spot)  # elsewhere the price says next to nothing about volatility
    found = implied_volatility(kind, at.price, spot, strike, years, rate).implied_volatility
    assert found == pytest.approx(volatility, rel=1e-6)


@pytest.mark.parametrize(
    ("price", "says"), [(4.0, "no volatility gives 4"), (150.0, "less than 100"), (99.999999, "1000%")]
)
def test_a_price_outside_the_bounds_of_arbitrage_is_refused(price: float, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        implied_volatility("call", price, 100, 100, 1, 0.05)


def test_the_ends_of_the_accepted_ranges_give_finite_numbers() -> None:
    for kind in ("call", "put"):
        for spot, strike in ((1e12, 1e-9), (1e-9, 1e12), (1.0, 1.0)):
            for years in (1e-6, 100):
                for volatility in (1e-6, 10):
                    found = option_price(kind, spot, strike, years, volatility, -0.99, 5)  # type: ignore[arg-type]
                    assert all(math.isfinite(value) for value in found.model_dump().values())
