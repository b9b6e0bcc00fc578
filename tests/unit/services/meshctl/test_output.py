"""What meshctl prints and reads."""

import json
from datetime import UTC, datetime, timedelta

import click
import pytest

from services.meshctl.output import ago, parse_arguments, print_json, shorten

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


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_what_json_has_no_number_for_is_text_in_a_pair_and_refused_in_an_object(word: str) -> None:
    assert parse_arguments([f"x={word}"], no_file) == {"x": word}
    with pytest.raises(click.BadParameter, match="no number in JSON"):
        parse_arguments([f'{{"x": {word}}}'], no_file)


def test_an_argument_that_is_given_twice_is_refused() -> None:
    with pytest.raises(click.BadParameter, match="a is given twice"):
        parse_arguments(["a=1", "a=2"], no_file)


def test_json_without_end_is_refused() -> None:
    with pytest.raises(click.BadParameter, match="not JSON"):
        parse_arguments(['{"a":' + "[" * 100_000], no_file)


def test_what_is_printed_as_json_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    def no_constant(word: str) -> None:
        raise AssertionError(word)

    print_json({"a": float("nan"), "b": [1.5, "é"]})
    printed = capsys.readouterr().out
    assert json.loads(printed, parse_constant=no_constant) == {"a": "NaN", "b": [1.5, "é"]}
