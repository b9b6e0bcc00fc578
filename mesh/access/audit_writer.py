"""Writes the chain of an audit into its folder."""

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from mesh.access.audit_chain import link
from mesh.access.audit_files import (
    START,
    Mark,
    audit_files,
    file_name,
    file_number,
    read_anchor,
    read_head,
    read_tail,
    write_anchor,
    write_head,
)
from mesh.config.document.access import Audit as AuditPolicy
from mesh.errors import FailedPrecondition, MeshError
from mesh.runtime.private_files import make_private_dir, remove_file
from mesh.telemetry import get_logger

_log = get_logger(__name__)


class AuditWriter:
    """Goes on with the chain of a folder. Everything blocks; one thread at a time may use it.

    What raises OSError or FailedPrecondition has written nothing, and may be tried again.
    """

    def __init__(self, directory: Path, policy: Callable[[], AuditPolicy]) -> None:
        self._directory = directory
        self._policy = policy
        self._mark = START
        self._descriptor = -1
        self._size = 0
        self._is_spoiled = False
        self._is_synced = True

    @property
    def is_synced(self) -> bool:
        """Whether all that was written is on disk."""
        return self._is_synced

    def start(self) -> dict[str, Any] | None:
        """Go on where the last writer has ended; gives what is to be noted about that end.

        The rest of a line that a killed writer has not finished is cut off. What was on disk, by the head, and is not
        there any more, is left as a hole in the chain for `verify` to find: the next line follows the head.
        """
        make_private_dir(self._directory)
        self._remove_dropped()
        head = self._read(read_head)
        files = audit_files(self._directory)
        last = file_number(files[-1]) if files else 0
        self._mark, size, rest = self._find_end(files)
        if head is not None and (head.sequence > self._mark.sequence or self._is_other(head)):
            lost = head.sequence - self._mark.sequence
            # What is left stays as it is found, and a new file goes on.
            self._mark = Mark(head.sequence, head.hash, max(last, head.file) + 1)
            self._open()
            _log.error("audit_damaged", path=str(self._directory), after=head.sequence, lost=lost)
            note: dict[str, Any] | None = {"decision": "lost", "reason": "END_MISSING", "count": lost}
        else:
            self._mark = Mark(self._mark.sequence, self._mark.hash, max(last, 1))
            self._open()
            if rest:
                os.ftruncate(self._descriptor, size)
                self._size = size
            note = {"decision": "torn", "reason": "WRITER_KILLED", "bytes": rest} if rest else None
            if head is None and self._mark.sequence:
                note = {"decision": "torn", "reason": "HEAD_MISSING", "bytes": rest}
        self._is_synced = False
        self.sync()
        self._say_head()
        return note

    def append(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Write entries."""
        sequence, last, lines = self._mark.sequence, self._mark.hash, []
        for entry in entries:
            sequence += 1
            line, last = link(sequence, last, entry)
            lines.append(line)
        data = b"".join(lines)
        if self._size and self._size + len(data) > self._policy().max_file_mb << 20:
            self._rotate()
        elif self._descriptor < 0:
            self._open()
        if self._is_spoiled:
            os.ftruncate(self._descriptor, self._size)
            self._is_spoiled = False
        try:
            _write_all(self._descriptor, data)
        except OSError:
            self._is_spoiled = True
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
                self._is_spoiled = False
            raise
        self._is_synced = False
        self._size += len(data)
        self._mark = Mark(sequence, last, self._mark.file)

    def sync(self) -> None:
        """Bring what was written to disk, and then tell so in the head."""
        if self._is_synced:
            return
        if self._descriptor < 0:
            self._open()
        os.fsync(self._descriptor)
        if not self._is_in_place():
            # Moved or removed under us. What goes on is to be found again; the hole is in the chain.
            _log.error("audit_file_gone", path=str(self._directory / file_name(self._mark.file)))
            make_private_dir(self._directory)
            self._begin_file()
        write_head(self._directory, self._mark)
        self._is_synced = True

    def close(self) -> None:
        """Close the file; call `sync` before."""
        self._close()
        self._say_head()

    def _rotate(self) -> None:
        if self._descriptor >= 0:
            os.fsync(self._descriptor)
        self._begin_file()
        self._say_head()
        try:
            self._drop_oldest()
        except (OSError, MeshError) as err:
            # Tried again with the next file.
            _log.error("audit_not_dropped", path=str(self._directory), error=str(err))

    def _drop_oldest(self) -> None:
        files = audit_files(self._directory)
        for path in files[: max(0, len(files) - self._policy().keep)]:
            mark = read_tail(path).mark
            if mark is None:
                # Empty or damaged: to be gone as the others, and the chain then begins where it has begun until now.
                _log.warning("audit_file_without_end", path=str(path))
                mark = replace(self._read(read_anchor) or START, file=file_number(path))
            write_anchor(self._directory, mark)
            remove_file(path)

    def _remove_dropped(self) -> None:
        """What a writer that was killed had on its mind to remove."""
        anchor = self._read(read_anchor)
        for path in self._directory.glob("audit-*.jsonl"):
            if anchor is not None and 0 < file_number(path) <= anchor.file:
                remove_file(path)

    def _read(self, read: Callable[[Path], Mark | None]) -> Mark | None:
        """A mark; None for a damaged one: `verify` tells that, and who calls meanwhile is to be noted all the same."""
        try:
            return read(self._directory)
        except FailedPrecondition as err:
            _log.error("audit_damaged", path=str(self._directory), error=str(err))
            return None

    def _find_end(self, files: list[Path]) -> tuple[Mark, int, int]:
        """The last good line; of the last file the bytes that are good, and those that are not."""
        size = rest = 0
        for path in reversed(files):
            tail = read_tail(path)
            if path == files[-1]:
                size, rest = tail.size, tail.rest
            if tail.mark is not None:
                return tail.mark, size, rest
        return self._read(read_anchor) or START, size, rest

    def _is_other(self, head: Mark) -> bool:
        return head.sequence == self._mark.sequence and head.hash != self._mark.hash

    def _begin_file(self) -> None:
        self._close()
        self._mark = Mark(self._mark.sequence, self._mark.hash, self._mark.file + 1)
        self._open()

    def _open(self) -> None:
        path = self._directory / file_name(self._mark.file)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(path, flags, 0o600)
        os.fchmod(self._descriptor, 0o600)
        self._size = os.fstat(self._descriptor).st_size
        self._is_spoiled = False

    def _close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def _is_in_place(self) -> bool:
        try:
            there = (self._directory / file_name(self._mark.file)).lstat()
        except OSError:
            return False
        ours = os.fstat(self._descriptor)
        return (there.st_ino, there.st_dev) == (ours.st_ino, ours.st_dev)

    def _say_head(self) -> None:
        """So that whoever collects logs has hashes that nobody can change along with the files."""
        _log.info("audit_head", path=str(self._directory), sequence=self._mark.sequence, hash=self._mark.hash)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
