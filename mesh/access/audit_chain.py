"""The chain of the audit: how lines hang together, and whether they still do."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesh.errors import FailedPrecondition

START = "0" * 64
"""What the first line ever follows."""
HEAD = "head.json"
ANCHOR = "anchor.json"

_BLOCK = 64 << 10


@dataclass(frozen=True, slots=True)
class Tail:
    """Where a chain ends: number and hash of its last line, its file, the bytes that count, whether more follow."""

    sequence: int
    hash: str
    file: int
    size: int
    torn: bool


@dataclass(frozen=True, slots=True)
class Report:
    """What was found: how many lines are good, and the first thing that is wrong, "" when nothing is."""

    lines: int
    files: int
    broken: str = ""
    where: str = ""

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.broken


def link(sequence: int, previous: str, facts: Mapping[str, Any]) -> tuple[bytes, str]:
    """The line for some facts, and its hash: SHA-256 over the one before and the line without it."""
    text = json.dumps({"sequence": sequence, **facts, "previous": previous}, ensure_ascii=True, separators=(",", ":"))
    made = hashlib.sha256(text.encode()).hexdigest()
    return f'{text[:-1]},"hash":"{made}"}}\n'.encode(), made


def audit_files(directory: Path) -> list[Path]:
    """The files, oldest first."""
    return sorted(directory.glob("audit-*.jsonl"))


def file_name(number: int) -> str:
    """The name of a file."""
    return f"audit-{number:08}.jsonl"


def read_tail(directory: Path, path: Path | None = None) -> Tail:
    """Where the chain in a folder ends, or that in one of its files. Raises FailedPrecondition for a damaged end."""
    files = audit_files(directory)
    if path is None and not files:
        return Tail(0, START, 1, 0, torn=False)
    path = path or files[-1]
    number = int(path.stem.removeprefix("audit-"))
    data, size = _last_lines(path)
    whole, newline, rest = data.rpartition(b"\n")
    if not newline:
        before = files.index(path) - 1
        if before < 0:
            sequence, last = _anchor(directory)
        else:
            earlier = read_tail(directory, files[before])
            sequence, last = earlier.sequence, earlier.hash
        return Tail(sequence, last, number, 0, torn=bool(rest))
    try:
        facts = json.loads(whole.rpartition(b"\n")[2])
        return Tail(int(facts["sequence"]), str(facts["hash"]), number, size - len(rest), torn=bool(rest))
    except (ValueError, KeyError, TypeError) as err:
        raise FailedPrecondition(
            f"The end of {path} is damaged.", field=str(path), fix="Move the folder away; a new chain begins then."
        ) from err


def verify(directory: Path) -> Report:
    """Look at every line. Raises FailedPrecondition when there is no audit in the folder."""
    files = audit_files(directory)
    if not files:
        raise FailedPrecondition(f"There is no audit in {directory}.", field=str(directory), fix="Name its folder.")
    sequence, previous = _anchor(directory)
    lines = 0
    for path in files:
        for number, line in enumerate(_lines(path), 1):
            wrong = _wrong(line, sequence, previous)
            if wrong:
                return Report(lines, len(files), wrong, f"{path.name}:{number}")
            sequence, previous, lines = sequence + 1, line.rstrip(b"\n")[-66:-2].decode(), lines + 1
    return Report(lines, len(files), *_against_head(directory, sequence, previous))


def _wrong(line: bytes, sequence: int, previous: str) -> str:
    if not line.endswith(b"\n"):
        return "the line is not finished"
    text = line.rstrip(b"\n").decode(errors="replace")
    body, mark, end = text.rpartition(',"hash":"')
    if not mark or not end.endswith('"}'):
        return "the line has no hash"
    made = hashlib.sha256(f"{body}}}".encode()).hexdigest()
    if end[:-2] != made:
        return "the line was changed: its hash is another one"
    try:
        facts = json.loads(text)
    except ValueError:
        return "the line is no JSON"
    if facts.get("previous") != previous:
        return "the line does not follow the one before: lines are missing or were put in"
    if facts.get("sequence") != sequence + 1:
        return f"the number is {facts.get('sequence')} and not {sequence + 1}"
    return ""


def _against_head(directory: Path, sequence: int, previous: str) -> tuple[str, str]:
    head = _read(directory / HEAD)
    if head is None:
        return ("the head is missing", HEAD) if sequence else ("", "")
    # Lines beyond the head are those of the last second.
    if int(head["sequence"]) > sequence:
        return f"{int(head['sequence']) - sequence} lines are missing at the end", HEAD
    if int(head["sequence"]) == sequence and head["hash"] != previous:
        return "the last line is not that of the head", HEAD
    return "", ""


def _anchor(directory: Path) -> tuple[int, str]:
    anchor = _read(directory / ANCHOR)
    return (0, START) if anchor is None else (int(anchor["sequence"]), str(anchor["hash"]))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        facts: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as err:
        raise FailedPrecondition(f"{path} cannot be read: {err}.", field=str(path), fix="Restore it.") from err
    return facts


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file


def _last_lines(path: Path) -> tuple[bytes, int]:
    """The end of a file, and its size."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _BLOCK))
        return file.read(), size
