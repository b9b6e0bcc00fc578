from collections.abc import Awaitable, Callable
from datetime import date
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from services.utilities.dates import add_to_date, days_between

Call = Callable[..., Awaitable[dict[str, Any]]]
Refusal = Callable[..., Awaitable[str]]
DAYS = st.dates(min_value=date(1900, 1, 1), max_value=date(2200, 1, 1))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"date": "2024-01-31", "months": 1}, {"date": "2024-02-29", "weekday": "Thursday"}),
        ({"date": "2024-02-29", "years": 1}, {"date": "2025-02-28", "weekday": "Friday"}),
        ({"date": "2026-01-31", "months": -2, "weeks": 1, "days": -1}, {"date": "2025-12-06", "weekday": "Saturday"}),
        ({"date": "2026-11-20", "business_days": 1}, {"date": "2026-11-23", "weekday": "Monday"}),
        ({"date": "2026-11-21", "business_days": 1}, {"date": "2026-11-23", "weekday": "Monday"}),
        ({"date": "2026-11-22", "business_days": -1}, {"date": "2026-11-20", "weekday": "Friday"}),
        ({"date": "2026-11-20", "business_days": 10}, {"date": "2026-12-04", "weekday": "Friday"}),
    ],
)
async def test_known_sum(call: Call, arguments: dict[str, Any], expected: dict[str, Any]) -> None:
    assert await call("add_to_date", **arguments) == expected


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        ("2026-01-02", "2026-01-05", {"days": 3, "business_days": 1}),
        ("2026-01-05", "2026-01-02", {"days": -3, "business_days": -1}),
        ("2024-02-29", "2025-03-01", {"days": 366, "years": 1, "months": 0, "remaining_days": 1}),
        ("0001-01-01", "9999-12-31", {"days": 3652058, "years": 9998, "months": 11, "remaining_days": 30}),
    ],
)
async def test_known_difference(call: Call, start: str, end: str, expected: dict[str, Any]) -> None:
    assert expected.items() <= (await call("days_between", start=start, end=end)).items()


async def test_a_date_is_described(call: Call) -> None:
    # ISO 8601: 1 January 2027 is a Friday of week 53 of 2026.
    assert await call("calendar_info", date="2027-01-01") == {
        "date": "2027-01-01",
        "weekday": "Friday",
        "iso_year": 2026,
        "iso_week": 53,
        "day_of_year": 1,
        "quarter": 1,
        "days_in_month": 31,
        "is_leap_year": False,
        "is_weekend": False,
    }


@pytest.mark.parametrize(
    ("year", "is_leap"), [("1900-02-28", False), ("2000-02-28", True), ("2024-02-28", True), ("2026-02-28", False)]
)
async def test_leap_years_are_those_of_the_gregorian_calendar(call: Call, year: str, is_leap: bool) -> None:
    found = await call("calendar_info", date=year)
    assert (found["is_leap_year"], found["days_in_month"]) == (is_leap, 29 if is_leap else 28)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"date": "2026-02-30"}, "date: '2026-02-30' is no date: day is out of range for month. Write YYYY-MM-DD."),
        ({"date": "30.2.2026"}, "date: '30.2.2026' is no date. Write YYYY-MM-DD."),
        ({"date": ""}, "date: '' is no date. Write YYYY-MM-DD."),
        ({"date": "9999-12-31", "days": 1}, "date: the result leaves the years 1 to 9999. Add less."),
        ({"date": "0001-01-31", "months": -1}, "date: the result leaves the years"),
        ({"date": "0001-01-06", "business_days": -10}, "date: the result leaves the years"),
        ({"date": "2026-01-01", "years": -100_000}, "date: the result leaves the years"),
        ({"date": "2026-01-01", "months": 10**9}, "months: input should be less than or equal to 100000"),
        ({"date": "2026-01-01", "days": 1.5}, "days: input should be a valid integer"),
        ({"date": "2026-01-01", "month": 1}, "'month': there is no such argument. Use months."),
    ],
)
async def test_bad_input_is_answered_with_field_cause_and_fix(
    refusal: Refusal, arguments: dict[str, Any], words: str
) -> None:
    assert words in await refusal("add_to_date", **arguments)


@given(DAYS, st.integers(-50_000, 50_000))
def test_days_added_are_days_between(day: date, days: int) -> None:
    moved = add_to_date(day.isoformat(), days=days).date
    assert days_between(day.isoformat(), moved).days == days


@given(DAYS, st.integers(-3_000, 3_000))
def test_business_days_added_are_business_days_between(day: date, count: int) -> None:
    assume(day.weekday() < 5)
    moved = add_to_date(day.isoformat(), business_days=count)
    assert moved.weekday not in {"Saturday", "Sunday"}
    assert days_between(day.isoformat(), moved.date).business_days == count


@given(DAYS, DAYS)
def test_years_months_and_days_between_lead_from_the_first_to_the_second(first: date, second: date) -> None:
    assume(first <= second)
    apart = days_between(first.isoformat(), second.isoformat())
    moved = add_to_date(first.isoformat(), years=apart.years, months=apart.months, days=apart.remaining_days)
    assert moved.date == second.isoformat()
