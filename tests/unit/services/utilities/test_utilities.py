"""The tools through the server, as a host would call them."""

from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult

from services.utilities.dates import add_to_date, days_between
from services.utilities.encoding import decode, encode
from services.utilities.server import build_server
from services.utilities.units import convert_units

DAYS = st.dates(min_value=date(1900, 1, 1), max_value=date(2200, 1, 1))
SERVER = build_server()


async def call(name: str, **arguments: Any) -> dict[str, Any]:
    result = await SERVER.call_tool(name, arguments)
    assert isinstance(result, CallToolResult)
    assert result.structured_content is not None
    return result.structured_content


KNOWN: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("convert_units", {"value": 3, "from_unit": "mile", "to_unit": "km"}, {"value": 4.828032, "unit": "km"}),
    ("convert_units", {"value": 100, "from_unit": "degC", "to_unit": "degF"}, {"value": 212.0, "factor": None}),
    ("convert_units", {"value": 36, "from_unit": "km/h", "to_unit": "m/s"}, {"value": 10.0}),
    ("convert_units", {"value": 1, "from_unit": "J/(kg*K)", "to_unit": "m^2/s**2/K"}, {"value": 1.0}),
    # FIPS 180-4, the message "abc".
    (
        "hash_text",
        {"text": "abc"},
        {"digest": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "is_secure": True},
    ),
    # RFC 1321, A.5.
    (
        "hash_text",
        {"text": "abc", "algorithm": "md5"},
        {"digest": "900150983cd24fb0d6963f7d28e17f72", "is_secure": False},
    ),
    # RFC 4648, section 10.
    ("encode", {"text": "foobar", "format": "base64"}, {"text": "Zm9vYmFy"}),
    ("encode", {"text": "foobar", "format": "base32"}, {"text": "MZXW6YTBOI======"}),
    ("encode", {"text": "a b/ü", "format": "url"}, {"text": "a%20b%2F%C3%BC"}),
    ("decode", {"text": "&lt;b&gt;", "format": "html"}, {"text": "<b>"}),
    ("query_json", {"document": '{"a": [1, 2]}', "query": ".a[]"}, {"results": [1, 2], "is_cut": False}),
    ("query_json", {"document": "[3, 1]", "query": "sort"}, {"results": [[1, 3]]}),
    # Daylight saving in Paris: Directive 2000/84/EC, last Sundays of March and October, 01:00 UTC.
    (
        "convert_time",
        {"time": "2026-07-01T12:00", "from_zone": "Europe/Paris", "to_zone": "America/New_York"},
        {"time": "2026-07-01T06:00:00-04:00", "utc_offset": "-04:00", "is_daylight_saving": True, "note": ""},
    ),
    (
        "convert_time",
        {"time": "2026-01-01T00:00+02:00", "from_zone": "Asia/Tokyo", "to_zone": "UTC"},
        {"time": "2025-12-31T22:00:00+00:00"},
    ),
    ("add_to_date", {"date": "2024-01-31", "months": 1}, {"date": "2024-02-29", "weekday": "Thursday"}),
    ("add_to_date", {"date": "2026-11-20", "business_days": 1}, {"date": "2026-11-23"}),
    ("add_to_date", {"date": "2026-11-21", "business_days": 1}, {"date": "2026-11-23"}),
    ("add_to_date", {"date": "2026-11-22", "business_days": -1}, {"date": "2026-11-20"}),
    ("days_between", {"start": "2026-01-02", "end": "2026-01-05"}, {"days": 3, "business_days": 1}),
    ("days_between", {"start": "2024-02-29", "end": "2025-03-01"}, {"years": 1, "months": 0, "remaining_days": 1}),
    # ISO 8601: 1 January 2027 is a Friday of week 53 of 2026.
    ("calendar_info", {"date": "2027-01-01"}, {"iso_year": 2026, "iso_week": 53, "quarter": 1, "is_leap_year": False}),
    (
        "text_statistics",
        {"text": "It's fine. Is it?\n\nYes"},
        {"words": 5, "sentences": 3, "paragraphs": 2, "lines": 3, "unique_words": 5},
    ),
    ("text_statistics", {"text": ""}, {"words": 0, "sentences": 0, "average_word_length": 0.0}),
    ("diff_texts", {"before": "a\nb", "after": "a\nc"}, {"added": 1, "removed": 1, "are_equal": False}),
    ("diff_texts", {"before": "a", "after": "a"}, {"diff": "", "ratio": 1.0, "are_equal": True}),
]


@pytest.mark.parametrize(("name", "arguments", "expected"), KNOWN)
async def test_known_answer(name: str, arguments: dict[str, Any], expected: dict[str, Any]) -> None:
    found = await call(name, **arguments)
    assert {key: found[key] for key in expected} == {
        key: pytest.approx(value) if isinstance(value, float) else value for key, value in expected.items()
    }


@pytest.mark.parametrize(
    ("time", "note"), [("2026-03-29T02:30", "does not exist"), ("2026-10-25T02:30", "happens twice")]
)
async def test_a_local_time_that_daylight_saving_skips_or_repeats_is_named(time: str, note: str) -> None:
    found = await call("convert_time", time=time, from_zone="Europe/Paris", to_zone="UTC")
    assert note in found["note"]


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("convert_units", {"value": 1, "from_unit": "kilometrr", "to_unit": "m"}, "Did you mean kilometer"),
    ("convert_units", {"value": 1, "from_unit": "m", "to_unit": "s"}, "to_unit: s measures time, m measures length"),
    ("convert_units", {"value": 1, "from_unit": "9**9**9", "to_unit": "m"}, "from_unit: '9**9**9' is no unit"),
    ("convert_units", {"value": 1, "from_unit": "m**9**9**9", "to_unit": "m"}, "from_unit: 'm**9**9**9' is no unit"),
    ("convert_units", {"value": 1, "from_unit": "__import__('os')", "to_unit": "m"}, "is no unit"),
    ("convert_units", {"value": float("nan"), "from_unit": "m", "to_unit": "m"}, "value: input should be"),
    ("convert_units", {"value": 1e300, "from_unit": "km^9", "to_unit": "m^9"}, "value: the result is too large"),
    ("current_time", {"zone": "Europe/Pari"}, "Did you mean Europe/Paris"),
    ("current_time", {"zone": "berlin"}, "Did you mean Europe/Berlin"),
    ("current_time", {"zone": "../../etc/passwd"}, "zone: there is no time zone"),
    ("convert_time", {"time": "noon", "to_zone": "UTC"}, "time: 'noon' is no ISO 8601 time"),
    ("decode", {"text": "abc!", "format": "base64"}, "text: it is not base64"),
    ("decode", {"text": "xyz", "format": "hex"}, "text: it is not hex"),
    ("decode", {"text": "/w==", "format": "base64"}, "byte 0 is not UTF-8"),
    ("encode", {"text": "a", "format": "rot13"}, "format: input should be"),
    ("hash_text", {"text": "\ud800"}, "text:"),
    ("hash_text", {"text": "a" * 1_000_001}, "text: 1000001 characters; at most 1000000"),
    ("query_json", {"document": '{"a": }', "query": "."}, "document: it is not JSON: Expecting value: line 1 column 7"),
    ("query_json", {"document": "{}", "query": ".a["}, "query: jq: error: syntax error"),
    ("query_json", {"document": "{}", "query": ".a | error('x')"}, "query:"),
    ("add_to_date", {"date": "2026-02-30"}, "date: '2026-02-30' is no date: day is out of range for month"),
    ("add_to_date", {"date": "9999-12-31", "days": 1}, "date: the result leaves the years"),
    ("add_to_date", {"date": "2026-01-01", "months": 10**9}, "months: input should be less than or equal to"),
    ("add_to_date", {"date": "2026-01-01", "month": 1}, "'month': there is no such argument. Use months."),
    ("diff_texts", {"before": "a\n" * 5_001, "after": ""}, "before: it has 5001 lines; at most 5000"),
]


@pytest.mark.parametrize(("name", "arguments", "words"), BAD)
async def test_bad_input_is_answered_with_field_cause_and_fix(name: str, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ToolError) as caught:
        await SERVER.call_tool(name, arguments)
    assert words in str(caught.value)


async def test_more_results_than_allowed_are_cut_and_said_to_be() -> None:
    found = await call("query_json", document="1", query="repeat(.)")
    assert found == {"results": [1] * 1000, "is_cut": True}


async def test_a_query_cannot_read_the_servers_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_SERVER", "1")
    found = await call("query_json", document="null", query="env, $ENV")
    assert all("SECRET_OF_THE_SERVER" not in names for names in found["results"])


async def test_every_tool_says_that_it_only_reads() -> None:
    for tool in await SERVER.list_tools():
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint is True
        assert tool.description
        assert tool.output_schema


@given(st.text(max_size=200), st.sampled_from(["base64", "base64url", "base32", "hex", "url"]))
def test_decoding_gives_back_what_was_encoded(text: str, format: Any) -> None:  # noqa: A002
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    assert decode(encode(text, format).text, format).text == text


@given(
    st.floats(min_value=-1e12, max_value=1e12),
    st.sampled_from([("m", "inch"), ("degC", "degF"), ("kWh", "J"), ("mile/hour", "m/s")]),
)
def test_a_unit_there_and_back_is_the_same(value: float, pair: tuple[str, str]) -> None:
    there = convert_units(value, *pair).value
    assert convert_units(there, *reversed(pair)).value == pytest.approx(value, rel=1e-9, abs=1e-6)


@given(DAYS, st.integers(-50_000, 50_000))
def test_days_added_are_days_between(day: date, days: int) -> None:
    moved = add_to_date(day.isoformat(), days=days).date
    assert days_between(day.isoformat(), moved).days == days


@given(DAYS, st.integers(-3_000, 3_000))
def test_business_days_added_are_business_days_between(day: date, count: int) -> None:
    if day.weekday() >= 5:
        return
    moved = add_to_date(day.isoformat(), business_days=count)
    assert moved.weekday not in {"Saturday", "Sunday"}
    assert days_between(day.isoformat(), moved.date).business_days == count
