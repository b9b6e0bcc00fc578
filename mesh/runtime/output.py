"""What a child prints, as log lines that cannot flood the log nor fill the memory."""

import time
from collections import deque
from collections.abc import Callable

from mesh.telemetry import get_logger

MAX_LINE_BYTES = 4096
KEPT_LINES = 20
BURST_LINES = 200
LINES_PER_SECOND = 50.0

_log = get_logger(__name__)


class OutputLog:
    """Logs the lines of one stream of a child ("child_output"), at most `rate` a second after a burst of `burst`.

    A line is cut after MAX_LINE_BYTES; what is longer takes no memory. Lines over the rate are counted; their number
    is logged ("child_output_dropped") before the next line that passes, or at the end. `last` takes all lines.
    """

    def __init__(
        self,
        child: str,
        stream: str,
        last: deque[bytes],
        *,
        burst: int = BURST_LINES,
        rate: float = LINES_PER_SECOND,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._child = child
        self._stream = stream
        self._last = last
        self._burst = float(burst)
        self._rate = rate
        self._clock = clock
        self._tokens = self._burst
        self._filled_at = clock()
        self._dropped = 0
        self._partial = b""
        self._is_cut = False

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes, in chunks of any size."""
        *complete, rest = chunk.split(b"\n")
        for part in complete:
            self._extend(part)
            self._end_line()
        self._extend(rest)

    def close(self) -> None:
        """Log what has no line end yet, and what has been dropped."""
        if self._partial:
            self._end_line()
        self._tell_dropped()

    def _extend(self, part: bytes) -> None:
        room = MAX_LINE_BYTES - len(self._partial)
        if len(part) > room:
            self._is_cut = True
            part = part[:room]
        self._partial += part

    def _end_line(self) -> None:
        line, self._partial = self._partial.rstrip(b"\r"), b""
        is_cut, self._is_cut = self._is_cut, False
        if not line:
            return
        self._last.append(line)
        if not self._take_token():
            self._dropped += 1
            return
        self._tell_dropped()
        text = line.decode(errors="replace")
        if is_cut:
            _log.info("child_output", child=self._child, stream=self._stream, line=text, cut=True)
        else:
            _log.info("child_output", child=self._child, stream=self._stream, line=text)

    def _take_token(self) -> bool:
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _tell_dropped(self) -> None:
        if self._dropped:
            _log.warning("child_output_dropped", child=self._child, stream=self._stream, lines=self._dropped)
            self._dropped = 0
