"""Calendar arithmetic in the Gregorian calendar, years 1 to 9999."""

import calendar
import re
from datetime import date, timedelta
from typing import Annotated

from pydantic import Field

from services.tool_server import InvalidArgument, Result, quote

__all__ = ["AboutDate", "DateResult", "DayCount", "add_to_date", "calendar_info", "days_between"]

Day = Annotated[str, Field(max_length=32, description="YYYY-MM-DD")]
Count = Annotated[int, Field(ge=-100_000, le=100_000)]

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_SATURDAY = 5
_WEEK = 7


class DateResult(Result):
    """A date."""

    date: str
    weekday: str


class DayCount(Result):
    """How far two dates are apart; negative when the second is earlier. Business days: Monday to Friday."""

    days: int
    weeks: float
    business_days: int
    years: int
    months: int
    remaining_days: int


class AboutDate(Result):
    """What a calendar says about a date; weeks are those of ISO 8601."""

    date: str
    weekday: str
    iso_year: int
    iso_week: int
    day_of_year: int
    quarter: int
    days_in_month: int
    is_leap_year: bool
    is_weekend: bool


def add_to_date(
    date: Day, years: Count = 0, months: Count = 0, weeks: Count = 0, days: Count = 0, business_days: Count = 0
) -> DateResult:
    """Add to a date, in the order years and months, weeks and days, business days (Monday to Friday).

    A day that a month does not have becomes its last: 31 January plus one month is the end of February.
    """
    # Imported here, like everything heavy.
    from dateutil.relativedelta import relativedelta

    start = _parse(date, "date")
    try:
        moved = start + relativedelta(years=years, months=months, weeks=weeks, days=days)
        return _result(_add_business_days(moved, business_days))
    except (ValueError, OverflowError) as err:
        raise InvalidArgument("date", "the result leaves the years 1 to 9999.", "Add less.") from err


def days_between(start: Day, end: Day) -> DayCount:
    """Count the days, business days, and years, months and days from one date to another."""
    from dateutil.relativedelta import relativedelta

    first, last = _parse(start, "start"), _parse(end, "end")
    days = (last - first).days
    apart = relativedelta(last, first)
    return DayCount(
        days=days,
        weeks=round(days / _WEEK, 2),
        business_days=_count_business_days(first, last),
        years=apart.years,
        months=apart.months,
        remaining_days=apart.days,
    )


def calendar_info(date: Day) -> AboutDate:
    """Weekday, ISO week, quarter and more of a date."""
    day = _parse(date, "date")
    iso = day.isocalendar()
    return AboutDate(
        date=day.isoformat(),
        weekday=day.strftime("%A"),
        iso_year=iso.year,
        iso_week=iso.week,
        day_of_year=day.timetuple().tm_yday,
        quarter=(day.month + 2) // 3,
        days_in_month=calendar.monthrange(day.year, day.month)[1],
        is_leap_year=calendar.isleap(day.year),
        is_weekend=day.weekday() >= _SATURDAY,
    )


def _parse(text: str, field: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as err:
        cause = f": {err}" if _DATE.fullmatch(text) else ""
        raise InvalidArgument(field, f"{quote(text)} is no date{cause}.", "Write YYYY-MM-DD.") from err


def _result(day: date) -> DateResult:
    return DateResult(date=day.isoformat(), weekday=day.strftime("%A"))


def _add_business_days(day: date, count: int) -> date:
    if not count:
        return day
    step = 1 if count > 0 else -1
    # From a weekend one counts from the last business day before it, in the direction of the count.
    while day.weekday() >= _SATURDAY:
        day -= timedelta(days=step)
    weeks, rest = divmod(abs(count), 5)
    day += timedelta(weeks=weeks * step)
    while rest:
        day += timedelta(days=step)
        rest -= day.weekday() < _SATURDAY
    return day


def _count_business_days(first: date, last: date) -> int:
    """Business days after `first` up to and including `last`: one from Friday to Monday. Negative backwards."""
    if last < first:
        return -_count_business_days(last, first)
    weeks, rest = divmod((last - first).days, _WEEK)
    return weeks * 5 + sum((first + timedelta(days=number)).weekday() < _SATURDAY for number in range(1, rest + 1))
