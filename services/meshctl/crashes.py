"""Processes of the mesh that have died of late, and were started again.

A service that dies again and again is healthy in between, so that health alone does not show it. The launchers log
each death where `meshctl` reads it.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from services.meshctl.logs import parse_line

RECENT = timedelta(minutes=5)

_TAIL = 512 << 10


@dataclass(frozen=True, slots=True)
class Crashes:
    """How often a process has died in the last five minutes; `said` is its last line before the last time."""

    name: str
    count: int
    last: datetime
    said: str


def read_crashes(logs: Path, *, since: datetime | None = None, now: datetime | None = None) -> list[Crashes]:
    """What the ends of the logs in a folder tell of processes that died of late, and after `since`; sorted by name."""
    recent = (now or datetime.now(UTC)) - RECENT
    since = max(since or recent, recent)
    found: dict[str, Crashes] = {}
    for moment, name, said in sorted(_deaths(logs)):
        if moment >= since:
            count = found[name].count if name in found else 0
            found[name] = Crashes(name, count + 1, moment, said)
    return [found[name] for name in sorted(found)]


def _deaths(logs: Path) -> Iterator[tuple[datetime, str, str]]:
    for path in sorted(logs.glob("*.log")):
        for line in _tail(path):
            if b'"child_exited"' not in line:
                continue
            facts = parse_line(line.decode(errors="replace"))
            said = facts.get("said")
            if facts.get("event") != "child_exited":
                continue
            try:
                moment = datetime.fromisoformat(str(facts.get("ts")))
            except ValueError:
                continue
            last = _words(str(said[-1])) if isinstance(said, list) and said else ""
            yield moment.astimezone(UTC), str(facts.get("child", "")), last


def _words(line: str) -> str:
    """What a line says; of one of our own logs, its event and error."""
    facts = parse_line(line)
    return ": ".join(str(facts[key]) for key in ("event", "error") if facts.get(key)) or line


def _tail(path: Path) -> list[bytes]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            return file.read().splitlines()
    except OSError:
        return []
