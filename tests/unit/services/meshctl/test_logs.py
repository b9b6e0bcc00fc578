"""Reading log lines back."""

import json

from services.meshctl.logs import concerns, parse_line, render_line


def test_a_childs_json_line_is_taken_as_its_own() -> None:
    inner = json.dumps({"ts": "2026-01-01T00:00:01Z", "level": "warning", "event": "x", "service": "financial"})
    facts = parse_line(json.dumps({"event": "child_output", "child": "financial-1", "line": inner, "ts": "t"}))
    assert (facts["event"], facts["service"], facts["level"]) == ("x", "financial", "warning")


def test_a_childs_plain_line_becomes_the_event() -> None:
    facts = parse_line(json.dumps({"event": "child_output", "child": "financial", "line": "hello", "ts": "t"}))
    assert (facts["event"], facts["service"]) == ("hello", "financial")


def test_a_line_that_is_no_json_is_kept() -> None:
    assert parse_line("Traceback") == {"event": "Traceback"}


def test_lines_are_found_by_service_and_by_instance() -> None:
    facts = {"service": "meshctl", "member": "financial-0a1b"}
    assert concerns(facts, "financial")
    assert concerns(facts, None)
    assert not concerns(facts, "fin")


def test_a_rendered_line_shows_time_level_service_event_and_facts() -> None:
    facts = {"ts": "2026-01-01T10:11:12.123456Z", "level": "info", "service": "a", "event": "ready", "port": 1}
    line = render_line(facts)
    assert line.startswith("10:11:12.123 info")
    assert line.endswith("ready port=1")
