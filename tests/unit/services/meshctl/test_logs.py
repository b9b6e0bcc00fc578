"""Reading log lines back."""

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mesh.config import MeshSettings
from mesh.errors import NotFound
from services.meshctl.logs import LogReader, concerns, logs, parse_line, render_line


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


def events(reader: LogReader) -> list[str]:
    return [facts["event"] for facts in reader.read()]


def test_half_a_line_waits_for_its_other_half(tmp_path: Path) -> None:
    with closing(LogReader(tmp_path)) as reader, (tmp_path / "mesh.log").open("wb", buffering=0) as log:
        log.write(b'{"event": "a"}\n{"eve')
        assert events(reader) == ["a"]
        log.write(b'nt": "b"}')
        assert events(reader) == []
        log.write(b"\n\xff\n")
        assert events(reader) == ["b", "\ufffd"]


def test_a_log_that_began_anew_and_a_new_log_are_read_too(tmp_path: Path) -> None:
    log = tmp_path / "mesh.log"
    log.write_text("a\n")
    with closing(LogReader(tmp_path)) as reader:
        assert events(reader) == ["a"]
        with log.open("a") as file:
            file.write("b\n")
        log.rename(tmp_path / "mesh.log.1")
        log.write_text("c\n")
        (tmp_path / "tools.log").write_text("d\n")
        assert events(reader) == ["b", "c", "d"]
        assert events(reader) == []


@pytest.fixture
def meshctl_logs(tmp_path: Path) -> Callable[..., Result]:
    (tmp_path / "logs").mkdir()
    lines = [json.dumps({"ts": f"2026-01-01T00:00:0{n}Z", "service": "a", "event": f"e{n}"}) for n in (2, 1, 3)]
    (tmp_path / "logs" / "mesh.log").write_text("\n".join(lines) + "\n")
    settings = replace(MeshSettings.from_environment({}), state_dir=tmp_path)
    return lambda *words: CliRunner().invoke(logs, words, obj=settings)


@pytest.mark.parametrize(("count", "shown"), [("0", []), ("2", ["e2", "e3"]), ("9", ["e1", "e2", "e3"])])
def test_the_last_lines_are_shown_in_order_of_time(meshctl_logs: Callable[..., Result], count, shown) -> None:
    printed = meshctl_logs("-n", count, "--output", "json").output
    assert [json.loads(line)["event"] for line in printed.splitlines()] == shown


def test_a_name_that_no_line_concerns_is_told(meshctl_logs: Callable[..., Result]) -> None:
    error = meshctl_logs("nobody").exception
    assert isinstance(error, NotFound)
    assert "'nobody'" in str(error)
