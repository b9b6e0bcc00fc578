"""The files of an audit, and how they are read: from their ends, and on from where one was.

audit-00000001.jsonl, ...   the lines, oldest file first
head.json                   up to where all is on disk: number and hash of a line, and its file
anchor.json                 the same of the last line that retention has dropped
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from mesh.errors import FailedPrecondition
from mesh.runtime.private_files import write_file

LONGEST_LINE = 256 << 10
"""Bytes; what is longer is no line of an audit."""

_HEAD = "head.json"
_ANCHOR = "anchor.json"
_FILE = re.compile(r"audit-(\d{8,12})\.jsonl")
_BLOCK = 64 << 10
_END = len(b',"hash":"') + 64 + len(b'"}')


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a chain: number and hash of a line, and the number of its file."""

    sequence: int
    hash: str
    file: int


START = Mark(0, "0" * 64, 0)
"""What the first line ever follows."""


@dataclass(frozen=True, slots=True)
class Tail:
    """The last good line of a file, None when it has none; the bytes up to its end, and those that come after."""

    mark: Mark | None
    size: int
    rest: int


def file_name(number: int) -> str:
    """The name of a file."""
    return f"audit-{number:08}.jsonl"


def file_number(path: Path) -> int:
    """The number in the name of a file."""
    found = _FILE.fullmatch(path.name)
    return int(found[1]) if found else 0


def audit_files(directory: Path) -> list[Path]:
    """The files, oldest first; without those that retention has dropped, and was killed before it removed them."""
    dropped = 0
    # A damaged anchor is for `audit_chain.verify` to tell.
    with suppress(FailedPrecondition):
        anchor = read_anchor(directory)
        dropped = anchor.file if anchor is not None else 0
    numbers = ((file_number(path), path) for path in directory.glob("audit-*.jsonl"))
    return [path for number, path in sorted(numbers) if number > dropped]


def is_audit(directory: Path) -> bool:
    """Whether a folder has, or had, an audit."""
    return (directory / _HEAD).exists() or bool(audit_files(directory))


def read_head(directory: Path) -> Mark | None:
    """Up to where a chain is on disk; None when nobody has said so. Raises FailedPrecondition for a damaged one."""
    return _read_mark(directory / _HEAD)


def write_head(directory: Path, mark: Mark) -> None:
    """Tell up to where the chain is on disk."""
    write_file(directory / _HEAD, json.dumps(asdict(mark)).encode(), mode=0o600)


def read_anchor(directory: Path) -> Mark | None:
    """What the oldest kept line follows; None when nothing was dropped. Raises FailedPrecondition when damaged."""
    return _read_mark(directory / _ANCHOR)


def write_anchor(directory: Path, mark: Mark) -> None:
    """Tell what the oldest line that is kept follows."""
    write_file(directory / _ANCHOR, json.dumps(asdict(mark)).encode(), mode=0o600)


def hash_in(line: bytes) -> str | None:
    """The hash that a line (without its newline) ends with, None when it is not the one of what is before it."""
    head, end = line[:-_END], line[-_END:]
    if not end.startswith(b',"hash":"') or not end.endswith(b'"}'):
        return None
    said = end[9:-2]
    made = hashlib.sha256(head + b"}").hexdigest().encode()
    return made.decode() if made == said else None


def read_tail(path: Path) -> Tail:
    """Where the good lines of a file end."""
    rest = 0
    is_first = True
    for line in lines_backwards(path):
        mark = None if is_first else _mark_of(line, file_number(path))
        if mark is not None:
            return Tail(mark, path.stat().st_size - rest, rest)
        rest += len(line) + (not is_first)
        is_first = False
    return Tail(None, 0, path.stat().st_size)


def lines_backwards(path: Path) -> Iterator[bytes]:
    """What is after the last newline, then the lines without their newlines, newest first.

    Ends early at something that is too long to be a line.
    """
    with path.open("rb") as file:
        position, rest = file.seek(0, os.SEEK_END), b""
        while position:
            size = min(_BLOCK, position)
            position -= size
            file.seek(position)
            rest, *lines = (file.read(size) + rest).split(b"\n")
            yield from reversed(lines)
            if len(rest) > LONGEST_LINE:
                return
        yield rest


def newest_entries(directory: Path) -> Iterator[dict[str, Any]]:
    """The entries, newest first; what is no entry is left out, `audit_chain.verify` tells about it."""
    for path in reversed(audit_files(directory)):
        try:
            for line in lines_backwards(path):
                if entry := _entry(line):
                    yield entry
        except FileNotFoundError:
            # Dropped by retention meanwhile, as all before it.
            return


class AuditReader:
    """Reads the entries of a folder that come after it was made."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        files = audit_files(directory)
        self._number = file_number(files[-1]) if files else 0
        self._file: IO[bytes] | None = files[-1].open("rb") if files else None
        self._rest = b""
        if self._file is not None:
            # At the end of a line, of which the writer may just have written the first half.
            self._file.seek(read_tail(files[-1]).size)

    def read(self) -> Iterator[dict[str, Any]]:
        """The entries since the last call."""
        while True:
            # Before the read: of a file that is not the last one nothing comes after what is read now.
            later = [path for path in audit_files(self._directory) if file_number(path) > self._number]
            if self._file is not None:
                yield from self._read(self._file)
            if not later:
                return
            self.close()
            self._rest = b""
            self._number = file_number(later[0])
            try:
                self._file = later[0].open("rb")
            except FileNotFoundError:
                self._file = None

    def _read(self, file: IO[bytes]) -> Iterator[dict[str, Any]]:
        for line in iter(lambda: file.readline(LONGEST_LINE), b""):
            self._rest += line
            if line.endswith(b"\n"):
                text, self._rest = self._rest, b""
                if entry := _entry(text):
                    yield entry

    def close(self) -> None:
        """Close the file that is being read."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_one = isinstance(entry, dict) and isinstance(entry.get("time"), int | float)
    return entry if is_one else None


def _mark_of(line: bytes, number: int) -> Mark | None:
    made = hash_in(line)
    entry = _entry(line) if made is not None else None
    sequence = entry.get("sequence") if entry is not None else None
    return Mark(sequence, made, number) if made is not None and isinstance(sequence, int) else None


def _read_mark(path: Path) -> Mark | None:
    try:
        # Without O_NONBLOCK a pipe in the file's place would hold us for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ValueError("it is no file")
            facts = json.loads(file.read(4096))
        return Mark(int(facts["sequence"]), str(facts["hash"]), int(facts["file"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as err:
        raise FailedPrecondition(
            f"{path} cannot be read: {err}.", reason="AUDIT_DAMAGED", field=str(path), fix="Restore it from a copy."
        ) from err
