"""The audit: who changed what, and what became of it; one JSON object per line, only ever appended."""

import asyncio
import json
import os
from datetime import UTC, datetime
from pathlib import Path

from mesh.telemetry import get_logger

_LONGEST_TEXT = 2_000

_log = get_logger(__name__)


class Audit:
    """Appends to a file of mode 0600 and logs the same. Texts are those of people and proxies, never secrets."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def note(self, action: str, *, who: str, revision: int, decision: str, reason: str = "") -> None:
        """Write one line; it is on disk when this returns.

        `action` is what was tried (apply, rollback, promote, undo), `decision` what became of it. A disk that is full
        must not keep a bad change in force, so a line that cannot be written is an error in the log and no more.
        """
        entry = {
            "time": datetime.now(UTC).isoformat(),
            "who": who,
            "action": action,
            "revision": revision,
            "decision": decision,
            "reason": reason[:_LONGEST_TEXT],
        }
        _log.info("config_audit", **{key: value for key, value in entry.items() if key != "time"})
        try:
            await asyncio.to_thread(self._append, json.dumps(entry, ensure_ascii=False) + "\n")
        except OSError as err:
            _log.error("audit_not_written", path=str(self._path), error=str(err))

    def _append(self, line: str) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, line.encode(errors="replace"))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
