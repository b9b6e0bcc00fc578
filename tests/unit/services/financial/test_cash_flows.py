"""Values published by Microsoft for Excel's NPV, IRR and MIRR, and by Brealey, Myers & Allen."""

import math

import numpy_financial
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.financial.cash_flows import irr, mirr, npv
from services.tool_server import InvalidArgument

AMOUNTS = st.floats(0.01, 1e6)


def value_tolerance(rate: float, flows: list[float]) -> float:
    """What rounding alone may leave of a value that should be zero."""
    return 1e-9 * math.fsum(abs(flow) * (1 + rate) ** -period for period, flow in enumerate(flows))


def test_npv_matches_the_first_example_of_excels_npv_page() -> None:
    assert npv(0.10, [0, -10_000, 3_000, 4_200, 6_800]).npv == pytest.approx(1188.44, abs=0.005)


@pytest.mark.parametrize(("later", "value"), [([], 1922.06), ([-9_000], -3749.47)])
def test_npv_matches_the_second_example_of_excels_npv_page(later: list[float], value: float) -> None:
    assert npv(0.08, [-40_000, 8_000, 9_200, 10_000, 12_000, 14_500, *later]).npv == pytest.approx(value, abs=0.005)


def test_the_first_flow_is_not_discounted() -> None:
    assert npv(0.5, [100]).npv == 100


@settings(deadline=None)  # the first example may import scipy
@given(st.floats(-0.5, 2), st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_npv_agrees_with_numpy_financial(rate: float, flows: list[float]) -> None:
    tolerance = value_tolerance(rate, flows)
    assert npv(rate, flows).npv == pytest.approx(float(numpy_financial.npv(rate, flows)), abs=tolerance)


@pytest.mark.parametrize(
    ("flows", "rate"),
    [
        ([-70_000, 12_000, 15_000, 18_000, 21_000], -0.021),
        ([-70_000, 12_000, 15_000, 18_000, 21_000, 26_000], 0.087),
    ],
)
def test_irr_matches_the_examples_of_excels_irr_page(flows: list[float], rate: float) -> None:
    assert irr(flows).irr == pytest.approx(rate, abs=0.0005)


@pytest.mark.parametrize(
    ("flows", "rate"),
    [([-100, 39, 59, 55, 20], 0.28095), ([-100, 0, 0, 74], -0.0955), ([-100, 100, 0, 7], 0.06206)],
)
def test_irr_matches_the_examples_of_numpy_financials_manual(flows: list[float], rate: float) -> None:
    assert irr(flows).irr == pytest.approx(rate, abs=0.00005)


def test_mirr_matches_the_example_of_excels_mirr_page() -> None:
    flows = [-120_000.0, 39_000.0, 30_000.0, 21_000.0, 37_000.0, 46_000.0]
    assert mirr(flows, 0.10, 0.12).mirr == pytest.approx(0.126094, abs=5e-7)


def test_both_rates_of_the_pump_of_lorie_and_savage_1955_are_named() -> None:
    with pytest.raises(InvalidArgument, match=r"2 internal rates of return fit: 0\.25, 4 .* 2 times"):
        irr([-1_600, 10_000, -10_000])


def test_the_project_without_a_rate_in_brealey_myers_allen_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="there is no internal rate of return: no rate between"):
        irr([1_000, -3_000, 2_500])


def test_flows_of_one_sign_have_no_rate() -> None:
    with pytest.raises(InvalidArgument, match="no flow has the opposite sign"):
        irr([100, 0, 5])


def test_two_rates_that_meet_count_as_one() -> None:
    assert irr([-1, 2.2, -1.21]).irr == pytest.approx(0.10, abs=1e-7)


def test_two_rates_that_lie_close_together_are_told_apart() -> None:
    with pytest.raises(InvalidArgument, match=r"fit: 0\.005, 0\.0051 "):
        irr([-1, 1.005 + 1.0051, -1.005 * 1.0051])


def test_zeros_before_and_after_do_not_move_the_rate() -> None:
    assert irr([0, 0, -100, 110, 0]).irr == pytest.approx(0.10)


@settings(deadline=None)  # the first example may import scipy
@given(st.lists(AMOUNTS, min_size=1, max_size=60), st.lists(AMOUNTS, min_size=1, max_size=60))
def test_npv_at_the_irr_is_zero(paid: list[float], received: list[float]) -> None:
    flows = [-amount for amount in paid] + received
    try:
        rate = irr(flows).irr
    except InvalidArgument as err:  # only when the one rate there is lies beyond the search
        assert "no rate between" in str(err)
        return
    assert npv(rate, flows).npv == pytest.approx(0, abs=value_tolerance(rate, flows))


@settings(deadline=None)  # the first example may import scipy
@given(st.lists(st.floats(-0.4, 1.5), min_size=2, max_size=3, unique_by=lambda rate: round(rate, 2)))
def test_every_rate_that_was_built_in_is_found(rates: list[float]) -> None:
    flows = [-1.0]
    for rate in rates:  # multiply the polynomial in 1 / (1 + r) by one more root
        flows = [a - (1 + rate) * b for a, b in zip([*flows, 0.0], [0.0, *flows], strict=True)]
    with pytest.raises(InvalidArgument) as caught:
        irr(flows)
    named = caught.value.cause.split("fit: ")[1].split(" (")[0].split(", ")
    assert [float(rate) for rate in named] == pytest.approx(sorted(rates), abs=1e-4)


def test_the_longest_list_is_solved() -> None:
    assert irr([-100.0] + [1.0] * 9_999).irr == pytest.approx(0.01)
