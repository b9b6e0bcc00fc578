"""Logs are JSON lines on stderr, whoever writes them."""

import json
import logging
import sys
from collections.abc import Callable

import pytest

from mesh.errors import InvalidInput
from mesh.telemetry import configure_logs, correlation_id, get_logger

Lines = Callable[[], list[dict[str, object]]]


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    """What has been logged since the last look."""
    return lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_has_the_fixed_keys_first_and_then_its_own(lines: Lines) -> None:
    configure_logs("billing")
    get_logger("mesh.x").info("thing_done", size=3, name="ö\n")
    [line] = lines()
    assert list(line) == ["ts", "level", "event", "service", "logger", "size", "name"]
    assert (line["level"], line["event"], line["service"], line["logger"]) == (
        "info",
        "thing_done",
        "billing",
        "mesh.x",
    )
    assert line["name"] == "ö\n"


def test_the_correlation_id_of_the_call_at_hand_is_in_every_line(lines: Lines) -> None:
    configure_logs("billing")
    token = correlation_id.set("c-1")
    try:
        get_logger("a").info("within")
        logging.getLogger("other").warning("within too")
    finally:
        correlation_id.reset(token)
    get_logger("a").info("outside")
    assert [line.get("correlation_id") for line in lines()] == ["c-1", "c-1", None]


def test_what_other_packages_log_has_the_same_form(lines: Lines) -> None:
    configure_logs("billing", level="debug")
    logging.getLogger("other").warning("number %d", 5)
    logging.getLogger("other").debug("too talkative")
    [line] = lines()
    assert (line["event"], line["level"], line["logger"]) == ("number 5", "warning", "other")


def test_a_record_whose_arguments_do_not_fit_is_still_a_line(lines: Lines) -> None:
    configure_logs("billing")
    # Not by way of a logger: pytest's own handler fails such a test.
    logging.getLogger().handlers[-1].handle(logging.makeLogRecord({"msg": "number %d", "args": ("none",)}))
    assert [line["event"] for line in lines()] == ["number %d"]


def test_lines_below_the_level_are_left_out_and_loggers_made_before_follow(lines: Lines) -> None:
    logger = get_logger("early")
    configure_logs("billing", level="warning")
    logger.info("no")
    logger.warning("yes")
    configure_logs("billing", level="debug")
    logger.debug("yes, too")
    assert [line["event"] for line in lines()] == ["yes", "yes, too"]


def test_an_exception_is_one_line_with_its_traceback(lines: Lines) -> None:
    configure_logs("billing")
    try:
        _ = 1 // 0
    except ZeroDivisionError as err:
        get_logger("a").error("failed", exc_info=err)
    [line] = lines()
    assert "ZeroDivisionError" in str(line["exception"])
    assert "Traceback" in str(line["exception"])


def test_what_json_does_not_know_is_written_as_text(lines: Lines) -> None:
    configure_logs("billing")
    get_logger("a").info(
        "odd",
        value={
            1,
        },
        error=ValueError("v"),
    )
    [line] = lines()
    assert (line["value"], line["error"]) == ("{1}", "v")


@pytest.mark.parametrize("level", ["loud", "", "INFO "])
def test_a_level_that_is_none_is_named(level: str) -> None:
    with pytest.raises(InvalidInput) as failed:
        configure_logs("billing", level=level)
    assert failed.value.field == "level"


class _Broken:
    def write(self, _text: str) -> int:
        raise BrokenPipeError

    def flush(self) -> None:
        raise BrokenPipeError


def test_a_log_that_cannot_be_written_does_not_fail_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    configure_logs("billing")
    monkeypatch.setattr(sys, "stderr", _Broken())
    get_logger("a").info("lost")
    logging.getLogger("other").warning("lost")
