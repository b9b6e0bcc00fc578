"""Logs what a server does wrong without letting it flood the log."""

import time
from collections.abc import Callable
from typing import Any

from mesh.telemetry import get_logger

_log = get_logger(__name__)


class NoiseLog:
    """Logs at most `burst` warnings of one connection in every `interval` seconds; the next one counts the rest."""

    def __init__(
        self, service: str, *, burst: int = 10, interval: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._service = service
        self._burst = burst
        self._interval = interval
        self._clock = clock
        self._window_start = clock()
        self._in_window = 0
        self._suppressed = 0

    def warn(self, event: str, **fields: Any) -> None:
        """Log one warning, or only count it."""
        now = self._clock()
        if now - self._window_start >= self._interval:
            self._window_start = now
            self._in_window = 0
        if self._in_window >= self._burst:
            self._suppressed += 1
            return
        self._in_window += 1
        if self._suppressed:
            fields["suppressed"] = self._suppressed
            self._suppressed = 0
        _log.warning(event, mcp_server=self._service, **fields)
