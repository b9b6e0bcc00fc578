"""Excel's PMT page publishes the payment; the other figures follow from the definition, cent by cent."""

from decimal import Decimal

import numpy_financial
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from services.financial.loans import amortization_schedule
from services.tool_server import InvalidArgument


def cents(amount: float) -> Decimal:
    return Decimal(str(amount))


def test_the_payment_matches_the_example_of_excels_pmt_page() -> None:
    assert amortization_schedule(10_000, 0.08, 10).monthly_payment == 1037.03


def test_the_first_rows_of_a_thirty_year_mortgage_at_six_percent() -> None:
    schedule = amortization_schedule(200_000, 0.06, 360)
    assert (schedule.monthly_payment, schedule.months) == (1199.10, 360)
    first, second = schedule.rows[:2]
    assert (first.interest, first.principal, first.balance) == (1000.0, 199.10, 199_800.90)
    assert (second.interest, second.principal, second.balance) == (999.00, 200.10, 199_600.80)
    assert schedule.rows[-1].balance == 0


def test_a_loan_without_interest_is_divided_evenly() -> None:
    schedule = amortization_schedule(1_000, 0, 3)
    assert [row.payment for row in schedule.rows] == [333.33, 333.33, 333.34]
    assert schedule.total_interest == 0


def test_an_extra_payment_shortens_the_loan_and_saves_interest() -> None:
    plain, quick = amortization_schedule(200_000, 0.06, 360), amortization_schedule(200_000, 0.06, 360, 100)
    assert quick.months_saved == 360 - quick.months > 0
    assert quick.interest_saved == float(cents(plain.total_interest) - cents(quick.total_interest))
    assert quick.rows[0].payment == 1299.10


def test_an_extra_payment_larger_than_the_debt_ends_the_loan_at_once() -> None:
    schedule = amortization_schedule(100, 0.12, 12, 1e6)
    assert (schedule.months, schedule.final_payment) == (1, 101.0)


def test_yearly_rows_are_sums_of_monthly_ones() -> None:
    monthly = amortization_schedule(50_000, 0.045, 30, 10).rows
    yearly = amortization_schedule(50_000, 0.045, 30, 10, "yearly").rows
    assert [row.month for row in yearly] == [12, 24, len(monthly)]
    assert cents(yearly[1].interest) == sum(cents(row.interest) for row in monthly[12:24])
    assert amortization_schedule(50_000, 0.045, 30, rows="none").rows == []


@settings(deadline=None)
@given(st.decimals(1, 10_000_000, places=2), st.decimals(0, "0.4", places=4), st.integers(1, 480), st.integers(0, 1000))
def test_the_schedule_sums_to_the_principal_cent_by_cent(
    principal: Decimal, rate: Decimal, months: int, extra: int
) -> None:
    try:
        schedule = amortization_schedule(float(principal), float(rate), months, float(extra))
    except InvalidArgument as err:
        assert "does not reduce" in str(err)
        return
    assert sum(cents(row.principal) for row in schedule.rows) == principal
    assert sum(cents(row.interest) for row in schedule.rows) == cents(schedule.total_interest)
    assert sum(cents(row.payment) for row in schedule.rows) == cents(schedule.total_paid)
    assert schedule.rows[-1].balance == 0
    assert schedule.rows[-1].payment == schedule.final_payment
    assert len(schedule.rows) == schedule.months <= months
    balance = principal
    for row in schedule.rows:
        balance -= cents(row.principal)
        assert cents(row.balance) == balance
        assert cents(row.interest) + cents(row.principal) == cents(row.payment)


@settings(deadline=None)
@given(st.integers(1_000, 10_000_000), st.floats(0.001, 0.3), st.integers(1, 480))
def test_the_payment_agrees_with_numpy_financial(principal: int, rate: float, months: int) -> None:
    exact = -float(numpy_financial.pmt(rate / 12, months, principal))
    assume(exact - principal * rate / 12 > 0.02)
    assert amortization_schedule(principal, rate, months, rows="none").monthly_payment == pytest.approx(
        exact, abs=0.006
    )
