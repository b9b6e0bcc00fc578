"""Values from F. Fabozzi, Bond Markets, Analysis, and Strategies, chapters 2 (prices) and 4 (duration, convexity)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.financial.bonds import bond_duration, bond_price, bond_yield
from services.tool_server import InvalidArgument

COUPONS = st.floats(0, 0.2)
YEARS = st.floats(0.05, 50)
YIELDS = st.floats(-0.02, 0.5)
FREQUENCIES = st.sampled_from((1, 2, 4, 12))


def test_the_price_of_fabozzis_twenty_year_bond() -> None:
    assert bond_price(0.10, 20, 0.11, 1000).clean_price == pytest.approx(919.77, abs=0.005)


def test_the_price_of_fabozzis_fifteen_year_zero_coupon_bond() -> None:
    assert bond_price(0, 15, 0.094, 1000).clean_price == pytest.approx(252.12, abs=0.005)


@pytest.mark.parametrize(
    ("coupon", "years", "price", "macaulay", "modified"),
    [
        (0.09, 5, 100.0000, 4.13, 3.96),
        (0.06, 5, 88.1309, 4.35, 4.16),
        (0.09, 25, 100.0000, 10.33, 9.88),
        (0.06, 25, 70.3570, 11.10, 10.62),
        (0.00, 5, 64.3928, 5.00, 4.78),
        (0.00, 25, 11.0710, 25.00, 23.92),
    ],
)
def test_the_durations_of_fabozzis_six_bonds(
    coupon: float, years: float, price: float, macaulay: float, modified: float
) -> None:
    found = bond_duration(coupon, years, 0.09)
    assert found.dirty_price == pytest.approx(price, abs=0.0001)
    assert found.macaulay_duration == pytest.approx(macaulay, abs=0.0051)
    assert found.modified_duration == pytest.approx(modified, abs=0.0051)


@pytest.mark.parametrize(
    ("coupon", "years", "convexity"), [(0.09, 5, 19.45), (0.06, 25, 182.92), (0.09, 25, 160.72), (0.00, 25, 583.78)]
)
def test_the_convexities_of_fabozzis_bonds(coupon: float, years: float, convexity: float) -> None:
    assert bond_duration(coupon, years, 0.09).convexity == pytest.approx(convexity, abs=0.01)


def test_a_bond_at_par_yields_its_coupon() -> None:
    found = bond_yield(100, 0.05, 10)
    assert found.yield_rate == pytest.approx(0.05)
    assert found.effective_annual_yield == pytest.approx(1.025**2 - 1)
    assert found.current_yield == 0.05


def test_between_coupon_dates_interest_accrues() -> None:
    found = bond_price(0.06, 2.25, 0.05)
    assert found.accrued_interest == pytest.approx(1.5)
    assert found.dirty_price == pytest.approx(found.clean_price + 1.5)


@settings(deadline=None)  # the first example may import scipy
@given(COUPONS, YEARS, YIELDS, FREQUENCIES)
def test_the_price_at_the_yield_of_a_price_is_that_price(coupon: float, years: float, rate: float, often: int) -> None:
    price = bond_price(coupon, years, rate, 100, often).clean_price  # type: ignore[arg-type]
    if price < 1e-6:
        return
    found = bond_yield(price, coupon, years, 100, often).yield_rate  # type: ignore[arg-type]
    assert bond_price(coupon, years, found, 100, often).clean_price == pytest.approx(price, rel=1e-9)  # type: ignore[arg-type]


@settings(deadline=None)  # the first example may import scipy
@given(COUPONS, YEARS, YIELDS, FREQUENCIES)
def test_duration_and_convexity_predict_the_next_price(coupon: float, years: float, rate: float, often: int) -> None:
    at, step = bond_duration(coupon, years, rate, 100, often), 1e-4  # type: ignore[arg-type]
    predicted = 1 - at.modified_duration * step + at.convexity * step**2 / 2
    moved = bond_price(coupon, years, rate + step, 100, often).dirty_price  # type: ignore[arg-type]
    assert moved / at.dirty_price == pytest.approx(predicted, abs=1e-7)


def test_a_price_that_no_yield_gives_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="no yield between"):
        bond_yield(1e-9, 0, 0.1)
