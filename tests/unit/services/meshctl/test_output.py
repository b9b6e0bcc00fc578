"""What meshctl prints and reads."""

from datetime import UTC, datetime, timedelta

import click
import pytest

from services.meshctl.output import ago, parse_arguments, shorten

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def no_file(_: str) -> str:
    raise AssertionError("no file is read")


def test_arguments_may_be_one_json_object() -> None:
    assert parse_arguments(['{"rate": 0.1, "cash_flows": [-1, 2]}'], no_file) == {"rate": 0.1, "cash_flows": [-1, 2]}


def test_arguments_may_be_pairs_whose_values_are_json_or_text() -> None:
    words = ["rate=0.1", "name=ACME", "flags=[1,2]", "zone=Europe/Berlin"]
    assert parse_arguments(words, no_file) == {"rate": 0.1, "name": "ACME", "flags": [1, 2], "zone": "Europe/Berlin"}


def test_arguments_may_stand_in_a_file() -> None:
    assert parse_arguments(["@x.json"], {"x.json": '{"a": 1}'}.__getitem__) == {"a": 1}


@pytest.mark.parametrize("words", [["{"], ["[1]x"], ["rate"], ["=1"], ["{}", "a"]])
def test_arguments_of_no_form_are_refused(words: list[str]) -> None:
    with pytest.raises(click.BadParameter):
        parse_arguments(words, no_file)


def test_a_json_value_that_is_no_object_is_refused() -> None:
    with pytest.raises(click.BadParameter, match="JSON object"):
        parse_arguments(["@list"], lambda _: "[1]")


@pytest.mark.parametrize(
    ("distance", "text"),
    [(timedelta(seconds=5), "5 s"), (timedelta(minutes=-58), "in 58 min"), (timedelta(days=3), "3 d")],
)
def test_moments_read_as_distances(distance: timedelta, text: str) -> None:
    assert ago(NOW - distance, now=NOW) == text


def test_a_missing_moment_reads_as_a_dash() -> None:
    assert ago(None) == "-"


def test_long_lists_are_shortened_with_the_number_of_the_rest() -> None:
    assert shorten(list("abcdef")) == "a, b, c, d and 2 more"
    assert shorten(["a"]) == "a"
