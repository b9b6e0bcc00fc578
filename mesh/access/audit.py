"""The audit: every decision about a call from outside, in files to which lines are only ever appended.

    note() ──> queue ──background──> AuditWriter ──> audit-00000001.jsonl, ...   each line with the hash of the last
                                                └──> head.json                   up to where all is on disk

A line that was changed, taken out, or put in breaks the chain; a tail that was cut off contradicts the head; of files
that retention has dropped the anchor keeps the last hash. `audit_chain.verify` looks at all of it.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from opentelemetry import metrics

from mesh.access.audit_writer import AuditWriter
from mesh.config.document.access import Audit as AuditPolicy
from mesh.errors import FailedPrecondition, MeshError
from mesh.runtime import open_background
from mesh.runtime.private_files import hold_private_dir
from mesh.telemetry import get_logger

_GATHERED_FOR = 0.02
"""Seconds: the longest that an entry waits for others to be written with."""
_SYNC_SECONDS = 1.0
_RETRY_SECONDS = 1.0
_MOST_WAITING = 16_384
"""Entries: some seconds of a gateway at its limit. They are held only while a disk is slow or full."""
_AT_ONCE = 256
"""So few that the event loop is not kept from the interpreter for long while they are hashed."""
_LONGEST_TEXT = 256
_LOCK_SECONDS = 5.0

_log = get_logger(__name__)


class AuditLog:
    """Takes entries at once and writes them in the background, in order. Made by `open_audit`.

    When too many wait to be written, more are not taken but counted, and the count is noted in their place.
    """

    def __init__(
        self, writer: AuditWriter, clock: Callable[[], float], *, most_waiting: int, sync_seconds: float
    ) -> None:
        self._writer = writer
        self._clock = clock
        self._most_waiting = most_waiting
        self._sync_seconds = sync_seconds
        self._waiting: deque[Mapping[str, Any]] = deque()
        self._missing = 0
        self._missing_since = 0.0
        self._wake = asyncio.Event()
        # A thread that writes goes on when whoever has started it is cancelled.
        self._writing = threading.Lock()
        self._is_failing = False
        self._dropped = metrics.get_meter("agentmesh").create_counter(
            "audit.dropped", description="Entries of the audit for which there was no room."
        )

    def note(self, facts: Mapping[str, Any]) -> None:
        """Take an entry: texts and numbers, empty ones left out, long ones cut. Call it in the event loop's thread."""
        now = round(self._clock(), 6)
        if len(self._waiting) >= self._most_waiting:
            self._missing_since = self._missing_since or now
            self._missing += 1
            self._dropped.add(1)
            return
        if self._missing:
            self._tell_missing()
        entry: dict[str, Any] = {"time": now}
        for name, value in facts.items():
            if value:
                is_long = isinstance(value, str) and len(value) > _LONGEST_TEXT
                entry[name] = f"{value[: _LONGEST_TEXT - 1]}…" if is_long else value
        self._waiting.append(entry)
        self._wake.set()

    def _tell_missing(self) -> None:
        self._waiting.append(
            {"time": round(self._clock(), 6), "decision": "missing", "reason": "NO_ROOM", "count": self._missing}
            | {"since": self._missing_since}
        )
        self._missing, self._missing_since = 0, 0.0

    async def _run(self) -> None:
        synced = time.monotonic()
        while True:
            with suppress(TimeoutError):
                # Whoever stops writing must not leave the last lines for the kernel to write some day.
                left = None if self._writer.is_synced else max(0.0, synced + self._sync_seconds - time.monotonic())
                async with asyncio.timeout(left):
                    await self._wake.wait()
                    await asyncio.sleep(_GATHERED_FOR)
            self._wake.clear()
            is_due = time.monotonic() - synced >= self._sync_seconds
            await asyncio.to_thread(self._write, sync=is_due)
            if is_due:
                synced = time.monotonic()
            if self._missing and len(self._waiting) < self._most_waiting:
                self._tell_missing()
                self._wake.set()
            if self._is_failing:
                await asyncio.sleep(_RETRY_SECONDS)
                self._wake.set()

    def _write(self, *, sync: bool) -> None:
        """Write what waits; what cannot be written goes on waiting."""
        with self._writing:
            batch: list[Mapping[str, Any]] = []
            try:
                while self._waiting:
                    batch = [self._waiting.popleft() for _ in range(min(_AT_ONCE, len(self._waiting)))]
                    self._writer.append(batch)
                    batch = []
                if sync:
                    self._writer.sync()
            except (OSError, MeshError) as err:
                self._waiting.extendleft(reversed(batch))
                if not self._is_failing:
                    _log.error("audit_not_written", error=str(err))
                self._is_failing = True
                return
            if self._is_failing:
                _log.info("audit_written_again")
            self._is_failing = False

    def _finish(self) -> None:
        self._write(sync=True)
        with self._writing:
            lost = len(self._waiting) + self._missing
            if lost:
                _log.error("audit_entries_lost", count=lost)
            self._writer.close()


@asynccontextmanager
async def open_audit(
    directory: Path,
    policy: Callable[[], AuditPolicy],
    *,
    clock: Callable[[], float] = time.time,
    most_waiting: int = _MOST_WAITING,
    sync_seconds: float = _SYNC_SECONDS,
) -> AsyncIterator[AuditLog]:
    """Write to `directory` while the block runs: within 50 ms, on disk within `sync_seconds` and when the block ends.

    Raises FailedPrecondition when it cannot be written, or another process goes on writing there.
    """
    with ExitStack() as stack:
        await asyncio.to_thread(stack.enter_context, hold_private_dir(directory, timeout=_LOCK_SECONDS))
        writer = AuditWriter(directory, policy)
        try:
            note = await asyncio.to_thread(writer.start)
        except OSError as err:
            raise FailedPrecondition(
                f"{err.filename or directory} cannot be written: {err.strerror or err}.",
                reason="STATE_NOT_WRITABLE",
                field=str(directory),
                fix="Make the folder writable, or free some space.",
            ) from err
        log = AuditLog(writer, clock, most_waiting=most_waiting, sync_seconds=sync_seconds)
        if note is not None:
            log.note(note)
        try:
            async with open_background(log._run()):
                yield log
        finally:
            if log._missing:
                log._tell_missing()
            await asyncio.to_thread(log._finish)
