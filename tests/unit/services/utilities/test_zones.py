from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.utilities.zones import convert_time

Call = Callable[..., Awaitable[dict[str, Any]]]
Refusal = Callable[..., Awaitable[str]]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        # Daylight saving in Paris: Directive 2000/84/EC, last Sundays of March and October, 01:00 UTC.
        (
            {"time": "2026-07-01T12:00", "from_zone": "Europe/Paris", "to_zone": "America/New_York"},
            {"time": "2026-07-01T06:00:00-04:00", "utc_offset": "-04:00", "is_daylight_saving": True, "note": ""},
        ),
        (
            {"time": "2026-01-01T00:00+02:00", "from_zone": "Asia/Tokyo", "to_zone": "UTC"},
            {"time": "2025-12-31T22:00:00+00:00", "weekday": "Wednesday"},
        ),
        ({"time": "2026-01-01 00:00Z", "to_zone": "Asia/Kathmandu"}, {"utc_offset": "+05:45"}),
        # Paris mean time, until 1891.
        ({"time": "1880-01-01T00:00", "to_zone": "Europe/Paris"}, {"utc_offset": "+00:09:21", "abbreviation": "LMT"}),
    ],
)
async def test_known_conversion(call: Call, arguments: dict[str, Any], expected: dict[str, Any]) -> None:
    found = await call("convert_time", **arguments)
    assert expected.items() <= found.items()


@pytest.mark.parametrize(
    ("time", "zone", "note", "in_utc"),
    [
        ("2026-03-29T02:30", "Europe/Paris", "does not exist", "2026-03-29T01:30:00+00:00"),
        ("2026-10-25T02:30", "Europe/Paris", "happens twice", "2026-10-25T00:30:00+00:00"),
        # Half an hour only; and a day that Samoa left out.
        ("2026-10-04T02:15", "Australia/Lord_Howe", "does not exist", "2026-10-03T15:45:00+00:00"),
        ("2011-12-30T12:00", "Pacific/Apia", "does not exist", "2011-12-30T22:00:00+00:00"),
    ],
)
async def test_a_local_time_that_is_skipped_or_repeated_is_named(
    call: Call, time: str, zone: str, note: str, in_utc: str
) -> None:
    found = await call("convert_time", time=time, from_zone=zone, to_zone="UTC")
    assert note in found["note"]
    assert zone in found["note"]
    assert found["time"] == in_utc


async def test_the_current_time_is_now(call: Call) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    found = await call("current_time", zone="Asia/Tokyo")
    assert before <= datetime.fromisoformat(found["time"]) <= datetime.now(UTC)
    assert found["utc_offset"] == "+09:00"


async def test_zones_are_found_by_a_part_of_the_name(call: Call) -> None:
    assert await call("list_time_zones", filter="new y") == {"zones": ["America/New_York"]}
    assert await call("list_time_zones", filter="xyzzy") == {"zones": []}
    every = (await call("list_time_zones"))["zones"]
    assert {"UTC", "Europe/Paris"} <= set(every)
    assert not {"localtime", "posixrules", "Factory"} & set(every)


@pytest.mark.parametrize(
    ("zone", "words"),
    [
        ("Europe/Pari", "Did you mean Europe/Paris"),
        ("europe/paris", "Did you mean Europe/Paris?"),
        ("berlin", "Did you mean Europe/Berlin?"),
        ("New York", "Did you mean America/New_York?"),
        ("IST", "Abbreviations can mean several zones"),
        ("localtime", "zone: there is no time zone 'localtime'"),
        ("Europe", "zone: there is no time zone 'Europe'"),
        ("", "zone: there is no time zone ''. list_time_zones names them."),
        ("../../etc/passwd", "zone: there is no time zone"),
        ("/etc/localtime", "zone: there is no time zone"),
        ("\0", "zone: there is no time zone"),
        ("x" * 65, "zone: 65 characters; at most 64"),
    ],
)
async def test_an_unknown_zone_is_refused_with_the_nearest(refusal: Refusal, zone: str, words: str) -> None:
    assert words in await refusal("current_time", zone=zone)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"time": "noon"}, "time: 'noon' is no ISO 8601 time. Write 2026-03-29T14:30."),
        ({"time": "2026-02-30T00:00"}, "time: '2026-02-30T00:00' is no ISO 8601 time"),
        ({"time": "0001-01-01T00:00", "from_zone": "Asia/Tokyo"}, "time: it leaves the years 1 to 9999"),
        ({"time": "2026-01-01T00:00", "from_zone": "Mars"}, "from_zone: there is no time zone 'Mars'"),
        ({"time": "2026-01-01T00:00", "to_zone": "Mars"}, "to_zone: there is no time zone 'Mars'"),
    ],
)
async def test_a_time_that_cannot_be_converted_is_refused(
    refusal: Refusal, arguments: dict[str, Any], words: str
) -> None:
    assert words in await refusal("convert_time", **{"to_zone": "UTC", **arguments})


@given(
    st.datetimes(min_value=datetime(1950, 1, 1), max_value=datetime(2100, 1, 1)),
    st.sampled_from(["Europe/Paris", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia"]),
)
def test_a_moment_there_and_back_is_the_same(moment: datetime, zone: str) -> None:
    there = convert_time(moment.isoformat(), zone)
    back = convert_time(there.time, "UTC", zone)
    assert datetime.fromisoformat(back.time) == moment.replace(tzinfo=UTC)
