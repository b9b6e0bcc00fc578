"""Statistics checked against the standard library's `statistics` and against hand-made paths."""

import math
import statistics
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.financial.portfolio import Terms, compute_statistics
from services.financial.price_table import PriceTable
from services.tool_server import InvalidArgument

PATH = st.lists(st.floats(1, 1000), min_size=4, max_size=40)


def test_a_drawdown_is_dated_from_its_peak_to_its_trough() -> None:
    table = PriceTable({"A": [100.0, 120.0, 90.0, 130.0]}, ("2024-01-01", "2024-01-02", "2024-01-03", "2024-01-04"))
    found = compute_statistics(table, Terms()).series[0]
    assert found.max_drawdown == pytest.approx(0.25)
    assert (found.peak, found.trough) == ("2024-01-02", "2024-01-03")


def test_a_path_that_only_rises_has_no_drawdown() -> None:
    found = compute_statistics(PriceTable({"A": [1.0, 2.0, 3.0]}), Terms()).series[0]
    assert (found.max_drawdown, found.peak, found.trough) == (0, None, None)


def test_a_fall_in_the_first_return_begins_at_the_start() -> None:
    found = compute_statistics(PriceTable({"A": [-0.5, 0.2]}), Terms(), are_returns=True).series[0]
    assert (found.max_drawdown, found.peak, found.trough) == (pytest.approx(0.5), "start", "0")


def test_a_doubling_within_two_years_of_months_is_41_percent_a_year() -> None:
    prices = [100 * 2 ** (month / 24) for month in range(25)]
    found = compute_statistics(PriceTable({"A": prices}), Terms(periods_per_year=12)).series[0]
    assert found.total_return == pytest.approx(1.0)
    assert found.annualised_return == pytest.approx(math.sqrt(2) - 1)
    assert found.sharpe_ratio is None  # it never wavers


def test_the_sharpe_ratio_is_mean_excess_over_deviation() -> None:
    returns = [0.02, -0.01, 0.03, 0.00]
    terms = Terms(periods_per_year=12, risk_free_rate=0.06)
    found = compute_statistics(PriceTable({"A": returns}), terms, are_returns=True).series[0]
    expected = (statistics.fmean(returns) - 0.005) / statistics.stdev(returns) * math.sqrt(12)
    assert found.sharpe_ratio == pytest.approx(expected)
    assert found.annualised_volatility == pytest.approx(statistics.stdev(returns) * math.sqrt(12))


def test_twice_the_benchmark_has_a_beta_of_two_and_a_correlation_of_one() -> None:
    market = [0.01, -0.02, 0.015, 0.003]
    table = PriceTable({"M": market, "A": [2 * move for move in market], "B": [-move for move in market]})
    found = compute_statistics(table, Terms("M", {"A": 0.5, "B": 0.5}), are_returns=True)
    assert [series.beta for series in found.series] == pytest.approx([1, 2, -1])
    assert found.portfolio.beta == pytest.approx(0.5)
    assert found.correlation.rows[0] == pytest.approx([1, 1, -1])


def test_without_weights_the_portfolio_holds_all_but_the_benchmark() -> None:
    table = PriceTable({"M": [1.0, 2.0, 3.0], "A": [1.0, 2.0, 1.0], "B": [2.0, 1.0, 2.0]})
    assert compute_statistics(table, Terms("M")).weights == {"A": 0.5, "B": 0.5}


def test_a_series_that_does_not_move_has_no_correlation_and_gives_no_beta() -> None:
    found = compute_statistics(PriceTable({"A": [1.0, 1.0, 1.0], "B": [1.0, 2.0, 1.0]}), Terms("A"))
    assert found.correlation.rows == [[None, None], [None, pytest.approx(1)]]
    assert found.portfolio.beta is None


@settings(deadline=None)  # the first example may import scipy
@given(PATH, PATH)
def test_beta_and_correlation_agree_with_the_standard_library(one: list[float], other: list[float]) -> None:
    size = min(len(one), len(other))
    table = PriceTable({"A": one[:size], "M": other[:size]})
    returns = {name: [b / a - 1 for a, b in pairwise(column)] for name, column in table.series.items()}
    found = compute_statistics(table, Terms("M", periods_per_year=1))
    if min(statistics.stdev(column) for column in returns.values()) < 1e-6:
        return
    assert found.series[0].beta == pytest.approx(statistics.linear_regression(returns["M"], returns["A"]).slope)
    assert found.correlation.rows[0][1] == pytest.approx(statistics.correlation(returns["A"], returns["M"]), abs=1e-9)
    assert 0 <= found.portfolio.max_drawdown < 1


@pytest.mark.parametrize(
    ("terms", "says"),
    [
        (Terms(benchmark="C"), "benchmark: there is no series 'C'"),
        (Terms(weights={"C": 1.0}), "weights: there is no series 'C'"),
        (Terms(weights={"A": 0.5}), "weights: they sum to 0.5"),
        (Terms(weights={"A": 51.0, "B": -50.0}), "loses all its worth"),
    ],
)
def test_terms_that_do_not_fit_the_series_are_refused(terms: Terms, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        compute_statistics(PriceTable({"A": [1.0, 2.0, 3.0], "B": [1.0, 3.0, 9.0]}), terms)


def test_wealth_beyond_every_number_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="larger than"):
        compute_statistics(PriceTable({"A": [1e-150, 1e150, 1e-150]}), Terms())
