"""The audit: every decision about a call from outside, in files to which lines are only ever appended.

    note() ──> queue ──background──> audit-00000001.jsonl, ...   a hash over each line and the one before
                                └──> head.json: how many lines there are, and the last hash

A line that was changed, taken out, or put in breaks the chain; a tail that was cut off contradicts the head; of files
that retention has dropped the anchor keeps the last hash. `audit_chain.verify` looks at all of it.
"""

import asyncio
import fcntl
import json
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mesh.access.audit_chain import ANCHOR, HEAD, START, audit_files, file_name, link, read_tail
from mesh.config.document.access import Audit as AuditPolicy
from mesh.errors import AlreadyExists, FailedPrecondition
from mesh.runtime import open_background
from mesh.runtime.private_files import make_private_dir, remove_file, write_file
from mesh.telemetry import get_logger

_PAUSE = 0.02
_SYNC_SECONDS = 1.0
_MOST_WAITING = 100_000
_LONGEST_TEXT = 512

_log = get_logger(__name__)


class AuditLog:
    """Takes entries at once and writes them in the background, in order. Made by `open_audit`."""

    def __init__(self, directory: Path, policy: Callable[[], AuditPolicy], clock: Callable[[], float]) -> None:
        self._directory = directory
        self._policy = policy
        self._clock = clock
        self._waiting: deque[dict[str, Any]] = deque()
        self._missing = 0
        self._wake = asyncio.Event()
        self._sequence, self._hash, self._file = 0, START, 1
        self._descriptor = -1
        self._size = 0
        self._said = False

    def note(self, facts: Mapping[str, Any]) -> None:
        """Take an entry: texts and numbers, empty ones left out. When too many wait, it is counted as missing."""
        if len(self._waiting) >= _MOST_WAITING:
            self._missing += 1
            return
        entry: dict[str, Any] = {"time": round(self._clock(), 6)}
        for name, value in facts.items():
            if value:
                entry[name] = value[:_LONGEST_TEXT] if isinstance(value, str) else value
        self._waiting.append(entry)
        if not self._wake.is_set():
            self._wake.set()

    def _start(self) -> None:
        """Go on where the last writer has ended; a line that it did not finish is cut off, and that is noted."""
        make_private_dir(self._directory)
        tail = read_tail(self._directory)
        self._sequence, self._hash, self._file = tail.sequence, tail.hash, tail.file
        self._open()
        if tail.torn:
            os.ftruncate(self._descriptor, tail.size)
            self._size = tail.size
            self.note({"decision": "torn", "reason": "WRITER_KILLED"})

    def _open(self) -> None:
        path = self._directory / file_name(self._file)
        try:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as err:
            raise FailedPrecondition(
                f"{path} cannot be written: {err.strerror or err}.", field=str(path), fix="Make the folder writable."
            ) from err
        self._size = os.fstat(self._descriptor).st_size

    def write_waiting(self, *, sync: bool) -> None:
        """Write what waits. What cannot be written goes on waiting."""
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(1000, len(self._waiting)))]
            if self._missing:
                batch.append({"time": round(self._clock(), 6), "decision": "missing", "count": self._missing})
            sequence, last, lines = self._sequence, self._hash, []
            for entry in batch:
                sequence += 1
                line, last = link(sequence, last, entry)
                lines.append(line)
            data = b"".join(lines)
            try:
                _write_all(self._descriptor, data)
            except OSError as err:
                os.ftruncate(self._descriptor, self._size)
                if self._missing:
                    batch.pop()
                self._waiting.extendleft(reversed(batch))
                if not self._said:
                    _log.error("audit_not_written", path=str(self._directory), error=str(err))
                    self._said = True
                return
            self._sequence, self._hash, self._missing, self._said = sequence, last, 0, False
            self._size += len(data)
            self._rotate()
        if sync and self._descriptor >= 0:
            os.fsync(self._descriptor)
            head = {"sequence": self._sequence, "hash": self._hash}
            write_file(self._directory / HEAD, json.dumps(head).encode(), mode=0o600)

    def _rotate(self) -> None:
        policy = self._policy()
        if self._size < policy.max_file_mb << 20:
            return
        os.fsync(self._descriptor)
        os.close(self._descriptor)
        self._file += 1
        self._open()
        files = audit_files(self._directory)
        for path in files[: max(0, len(files) - policy.keep)]:
            tail = read_tail(self._directory, path)
            anchor = {"sequence": tail.sequence, "hash": tail.hash}
            write_file(self._directory / ANCHOR, json.dumps(anchor).encode(), mode=0o600)
            remove_file(path)

    async def _run(self) -> None:
        synced = time.monotonic()
        while True:
            await self._wake.wait()
            await asyncio.sleep(_PAUSE)
            self._wake.clear()
            now = time.monotonic()
            is_due = now - synced >= _SYNC_SECONDS
            await asyncio.to_thread(self.write_waiting, sync=is_due)
            if is_due:
                synced = now
            elif not self._wake.is_set():
                # So that the last entries are on disk in any case.
                asyncio.get_running_loop().call_later(_SYNC_SECONDS, self._wake.set)
            if self._said:
                await asyncio.sleep(_SYNC_SECONDS)
                self._wake.set()


@asynccontextmanager
async def open_audit(
    directory: Path, policy: Callable[[], AuditPolicy], *, clock: Callable[[], float] = time.time
) -> AsyncIterator[AuditLog]:
    """Write to `directory` while the block runs; at its end all is on disk.

    Raises AlreadyExists when another process writes there, FailedPrecondition when it cannot be written or its files
    are damaged.
    """
    make_private_dir(directory)
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            raise AlreadyExists(f"Another process writes the audit in {directory}.", field=str(directory)) from err
        log = AuditLog(directory, policy, clock)
        await asyncio.to_thread(log._start)
        try:
            async with open_background(log._run()):
                yield log
        finally:
            await asyncio.to_thread(log.write_waiting, sync=True)
            os.close(log._descriptor)
    finally:
        os.close(lock)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
