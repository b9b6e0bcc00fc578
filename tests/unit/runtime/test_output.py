from collections import deque
from typing import Any

from mesh.runtime.output import KEPT_LINES, MAX_LINE_BYTES, OutputLog


def make(last: deque[bytes] | None = None, **changes: Any) -> OutputLog:
    settings = {"burst": 3, "rate": 1.0, "clock": lambda: 0.0} | changes
    return OutputLog("probe", "stderr", deque(maxlen=KEPT_LINES) if last is None else last, **settings)


def lines_of(logs: list[dict[str, Any]]) -> list[str]:
    return [entry["line"] for entry in logs if entry["event"] == "child_output"]


def test_lines_are_put_together_from_any_chunks(logs: list[dict[str, Any]]) -> None:
    output = make()
    for byte in b"one\r\n\ntwo\nrest":
        output.feed(bytes([byte]))
    output.close()
    assert lines_of(logs) == ["one", "two", "rest"]


def test_a_gigabyte_without_a_line_end_takes_no_memory(logs: list[dict[str, Any]]) -> None:
    output = make()
    for _ in range(16 * 1024):
        output.feed(b"x" * 65536)
        assert len(output._partial) <= MAX_LINE_BYTES
    output.feed(b"\nnext\n")
    assert lines_of(logs) == ["x" * MAX_LINE_BYTES, "next"]
    assert logs[0]["cut"] is True
    assert "cut" not in logs[1]


def test_a_flood_is_counted_and_not_logged(logs: list[dict[str, Any]]) -> None:
    now = 0.0
    output = make(clock=lambda: now)
    output.feed(b"line\n" * 1000)
    assert len(lines_of(logs)) == 3
    now = 2.0
    output.feed(b"calm\n")
    assert [entry["lines"] for entry in logs if entry["event"] == "child_output_dropped"] == [997]
    assert lines_of(logs)[-1] == "calm"


def test_what_was_dropped_last_is_told_at_the_end(logs: list[dict[str, Any]]) -> None:
    output = make()
    output.feed(b"line\n" * 5)
    output.close()
    assert logs[-1] == logs[-1] | {"event": "child_output_dropped", "lines": 2, "log_level": "warning"}


def test_last_lines_are_kept_even_when_they_are_not_logged(logs: list[dict[str, Any]]) -> None:
    last: deque[bytes] = deque(maxlen=KEPT_LINES)
    make(last).feed(b"".join(b"%d\n" % number for number in range(100)))
    assert list(last) == [b"%d" % number for number in range(80, 100)]
    assert len(logs) == 3


def test_bytes_that_are_no_text_are_shown(logs: list[dict[str, Any]]) -> None:
    make().feed(b"\xff\xfe\n")
    assert lines_of(logs) == ["\ufffd\ufffd"]
