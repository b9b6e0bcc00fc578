"""A bad argument is answered with its name, the cause and the fix, through the server as a host would call it."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

LOAN = {"principal": 1000, "annual_rate": 0.05, "months": 12}
BOND = {"coupon_rate": 0.05, "years": 10, "yield_rate": 0.05}
OPTION = {"kind": "call", "spot": 100, "strike": 100, "years": 1, "volatility": 0.2, "rate": 0.05}
TABLE = "A,B\n1,2\n2,3\n3,4\n"

CASES: list[tuple[str, dict[str, Any], str]] = [
    ("npv", {}, "rate: it is missing. Give: rate per period as a fraction"),
    ("npv", {"rate": 0.1}, "cash_flows: it is missing. Give: one amount per period"),
    ("npv", {"rate": -1, "cash_flows": [1]}, "rate: input should be greater than -1, not '-1'"),
    ("npv", {"rate": 101, "cash_flows": [1]}, "rate: input should be less than or equal to 100"),
    ("npv", {"rate": "abc", "cash_flows": [1]}, "rate: input should be a valid number"),
    ("npv", {"rate": float("nan"), "cash_flows": [1]}, "rate: input should be"),
    ("npv", {"rate": "inf", "cash_flows": [1]}, "rate: input should be"),
    ("npv", {"rate": 0.1, "cash_flows": [1, float("nan")]}, "cash_flows.1: input should be a finite number"),
    ("npv", {"rate": 0.1, "cash_flows": [1, "inf"]}, "cash_flows.1: input should be"),
    ("npv", {"rate": 0.1, "cash_flows": [10**400]}, "cash_flows.0: input should be a valid number"),
    ("npv", {"rate": 0.1, "cash_flows": [1e16]}, "cash_flows.0: input should be less than or equal to"),
    ("npv", {"rate": 0.1, "cash_flows": []}, "cash_flows: list should have at least 1 item"),
    ("npv", {"rate": 0.1, "cash_flows": [1.0] * 1_000_000}, "cash_flows: 1000000 items; at most 10000"),
    ("npv", {"rate": 0.1, "cash_flows": ["x"] * 9_999}, "cash_flows.0: input should be a valid number"),
    ("npv", {"rate": -0.9999999, "cash_flows": [0.0] * 99 + [1]}, "rate: the result is larger than"),
    ("npv", {"rate": 0.1, "cash_flow": [1]}, "'cash_flow': there is no such argument. Use cash_flows."),
    ("irr", {"cash_flows": [1, 2]}, "no flow has the opposite sign"),
    ("irr", {"cash_flows": [-1600, 10000, -10000]}, "2 internal rates of return fit: 0.25, 4"),
    ("mirr", {"cash_flows": [1], "finance_rate": 0, "reinvest_rate": 0}, "cash_flows: they need at least one"),
    ("amortization_schedule", {**LOAN, "principal": -5}, "principal: input should be greater than or equal to 0.01"),
    (
        "amortization_schedule",
        {**LOAN, "annual_rate": -0.01},
        "annual_rate: input should be greater than or equal to 0",
    ),
    ("amortization_schedule", {**LOAN, "annual_rate": 6}, "annual_rate: input should be less than or equal to 5"),
    ("amortization_schedule", {**LOAN, "months": 0}, "months: input should be greater than or equal to 1"),
    ("amortization_schedule", {**LOAN, "months": 1201}, "months: input should be less than or equal to 1200"),
    ("amortization_schedule", {**LOAN, "months": 1.5}, "months: input should be a valid integer"),
    ("amortization_schedule", {**LOAN, "extra_payment": -1}, "extra_payment: input should be greater than"),
    ("amortization_schedule", {**LOAN, "extra": 1}, "'extra': there is no such argument. Use extra_payment."),
    ("amortization_schedule", {**LOAN, "principal": 0.01}, "months: rounded to the cent, the payment of 0.00 does not"),
    ("bond_price", {**BOND, "frequency": 3}, "frequency: input should be 1, 2, 4 or 12"),
    ("bond_price", {**BOND, "years": 0}, "years: input should be greater than 0"),
    ("bond_price", {**BOND, "face": 0}, "face: input should be greater than 0"),
    ("bond_price", {**BOND, "years": 200, "yield_rate": -0.9999, "frequency": 1}, "yield_rate: the result is larger"),
    ("bond_duration", {**BOND, "coupon_rate": -1}, "coupon_rate: input should be greater than or equal to 0"),
    ("bond_yield", {"price": 0, "coupon_rate": 0.1, "years": 1}, "price: input should be greater than 0"),
    ("bond_yield", {"price": 1e15, "coupon_rate": 0, "years": 0.1}, "price: no yield between"),
    ("option_price", {**OPTION, "volatility": 0}, "volatility: input should be greater than or equal to"),
    ("option_price", {**OPTION, "years": -1}, "years: input should be greater than or equal to"),
    ("option_price", {**OPTION, "spot": 0}, "spot: input should be greater than or equal to"),
    ("option_price", {**OPTION, "kind": "straddle"}, "kind: input should be 'call' or 'put'"),
    ("portfolio_statistics", {}, "csv, series, symbols: there is no series"),
    ("portfolio_statistics", {"series": {}}, "csv, series, symbols: there is no series"),
    ("portfolio_statistics", {"csv": TABLE, "symbols": ["A"]}, "csv and symbols are given together"),
    ("portfolio_statistics", {"series": {"A": []}}, "series 'A': 0 prices are too few. Give at least 3."),
    ("portfolio_statistics", {"series": {"A": [1, 2]}}, "series 'A': 2 prices are too few"),
    ("portfolio_statistics", {"series": {"A": [1, 2, 3], "B": [1, 2]}}, "series: the lengths differ: A 3, B 2"),
    ("portfolio_statistics", {"series": {"A": [1, 2, 0]}}, "series 'A': value 3 is 0; a price must be above 0"),
    ("portfolio_statistics", {"series": {"A": [1, 2, "nan"]}}, "series.A.2: input should be"),
    ("portfolio_statistics", {"series": {f"S{n}": [1] for n in range(100_000)}}, "series: 100000 entries; at most 50"),
    ("portfolio_statistics", {"series": {"A": [1.0] * 1_000_000}}, "series.A: list should have at most 20000 items"),
    ("portfolio_statistics", {"series": {f"S{n}": [1.0] * 9_000 for n in range(30)}}, "270000 numbers; at most 200000"),
    ("portfolio_statistics", {"csv": "A\n0.5\n-1\n", "values": "returns"}, "value 2 is -1; a return must be above -1"),
    ("portfolio_statistics", {"csv": "A\n1\nx\n"}, "csv line 3 column 'A': 'x' is not a number"),
    ("portfolio_statistics", {"csv": "A\n" + "1\n" * 1_000_000}, "csv: 1000001 lines; at most 20000 rows"),
    ("portfolio_statistics", {"csv": "A" * 5_000_000}, "csv: 5000000 characters; at most 4194304"),
    ("portfolio_statistics", {"symbols": ["../secret"]}, "symbols: there are no prices for '../secret'"),
    ("portfolio_statistics", {"symbols": ["A", "A"]}, "symbols: 'A' is there twice"),
    ("portfolio_statistics", {"csv": TABLE, "periods_per_year": 0}, "periods_per_year: input should be greater"),
    ("portfolio_statistics", {"csv": TABLE, "weights": {"A": 0.5}}, "weights: they sum to 0.5. Make them sum to 1."),
]


@pytest.mark.parametrize(("tool", "arguments", "says"), CASES, ids=[f"{tool}-{says[:40]}" for tool, _, says in CASES])
async def test_bad_input_is_refused_with_the_argument_the_cause_and_the_fix(
    refusal: Callable[..., Awaitable[str]], tool: str, arguments: dict[str, Any], says: str
) -> None:
    text = await refusal(tool, arguments)
    assert says in text
    assert len(text) < 1_000  # however much was sent
    assert "Error executing" not in text


async def test_numbers_and_lists_written_as_text_are_understood(
    call: Callable[..., Awaitable[dict[str, Any]]],
) -> None:
    assert (await call("npv", rate="0.1", cash_flows="[0, 1.1]"))["npv"] == pytest.approx(1)
