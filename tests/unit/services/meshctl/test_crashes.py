"""Deaths of processes, found in the logs."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.meshctl.crashes import read_crashes

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def death(child: str, *, minutes_ago: float, said: list[str] | None = None) -> str:
    moment = (NOW - timedelta(minutes=minutes_ago)).isoformat().replace("+00:00", "Z")
    return json.dumps({"ts": moment, "event": "child_exited", "child": child, "code": 1, "said": said or []})


def test_deaths_of_late_are_counted_by_process_with_the_last_words(tmp_path: Path) -> None:
    lines = [
        death("b", minutes_ago=7),
        death("b", minutes_ago=3, said=["x"]),
        '{"event": "something_else", "said": "\\"child_exited\\""}',
        'no JSON with "child_exited" in it',
        '{"event": "child_exited", "child": "c", "ts": "yesterday"}',
        death("b", minutes_ago=1, said=["y", "z"]),
    ]
    (tmp_path / "mesh.log").write_text("\n".join(lines))
    (tmp_path / "a.log").write_text(death("a", minutes_ago=2) + "\n")
    found = read_crashes(tmp_path, now=NOW)
    assert [(it.name, it.count, it.said) for it in found] == [("a", 1, ""), ("b", 2, "z")]
    later = read_crashes(tmp_path, since=NOW - timedelta(minutes=1.5), now=NOW)
    assert [(it.name, it.count) for it in later] == [("b", 1)]
    assert found[1].last == NOW - timedelta(minutes=1)


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ("out of luck", "out of luck"),
        ('{"ts": "t", "event": "program_failed", "error": "The disk is full."}', "program_failed: The disk is full."),
        ('{"event": "ready"}', "ready"),
        ('{"no": "log"}', '{"no": "log"}'),
    ],
)
def test_the_last_words_of_a_log_are_its_event_and_error(tmp_path: Path, last: str, said: str) -> None:
    (tmp_path / "mesh.log").write_text(death("a", minutes_ago=1, said=[last]))
    (found,) = read_crashes(tmp_path, now=NOW)
    assert found.said == said


def test_without_logs_nothing_has_died(tmp_path: Path) -> None:
    assert read_crashes(tmp_path / "nowhere", now=NOW) == []
