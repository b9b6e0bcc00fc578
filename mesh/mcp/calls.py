"""News of running tool calls: progress and log messages, on their way to the callers.

The protocol gives a log message no request id, so over a shared connection it can only be guessed to which call it
belongs: it goes to every running call that asked for logs, unless calls of different callers run; then nobody gets it,
since it may hold what only one of them may know.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

LOG_LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
MAX_PENDING = 256


@dataclass(frozen=True, slots=True)
class ProgressNews:
    """How far a call has come; `total` is None when the server does not know."""

    progress: float
    total: float | None
    message: str


@dataclass(frozen=True, slots=True)
class LogNews:
    """Something that the server said; `data` is any JSON value, `params` is all of the notification."""

    level: str
    logger: str
    data: Any
    params: dict[str, Any] = field(default_factory=dict)


News = ProgressNews | LogNews


def is_heavy_enough(level: Any, wanted: str | None) -> bool:
    """Tell whether a log message is to be told to somebody who wants those from `wanted` on, None: none."""
    if wanted not in LOG_LEVELS or level not in LOG_LEVELS:
        return False
    return LOG_LEVELS.index(level) >= LOG_LEVELS.index(wanted)


class RunningCall(Protocol):
    """A call that runs over a shared connection."""

    @property
    def caller(self) -> str:
        """Whose it is."""
        ...

    def wants(self, level: str) -> bool:
        """Tell whether the caller asked for log messages of this weight."""
        ...

    def put(self, news: LogNews) -> None:
        """Take a log message."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class QuietCall:
    """A call whose caller wants to hear of nothing but its result."""

    caller: str

    def wants(self, level: str) -> bool:
        """Tell that it wants none."""
        return False

    def put(self, news: LogNews) -> None:
        """Drop it."""


class CallNews:
    """What one running call has to tell and its caller has not read yet.

    Holds 256 pieces at most; when the caller does not keep up, the oldest piece goes and `dropped` counts it.
    """

    def __init__(self, caller: str, log_level: str | None) -> None:
        self.caller = caller
        self.log_level = log_level
        self.dropped = 0
        self._pending: deque[News] = deque()
        self._wake = asyncio.Event()
        self._is_closed = False

    def put(self, news: News) -> None:
        """Add a piece of news."""
        if len(self._pending) >= MAX_PENDING:
            self._pending.popleft()
            self.dropped += 1
        self._pending.append(news)
        self._wake.set()

    async def on_progress(self, progress: float, total: float | None, message: str | None) -> None:
        """Take a progress notification; the signature is the SDK's."""
        self.put(ProgressNews(progress, total, message or ""))

    def wants(self, level: str) -> bool:
        """Tell whether the caller asked for messages of this weight."""
        return is_heavy_enough(level, self.log_level)

    def close(self) -> None:
        """Let `next` return None once everything has been taken."""
        self._is_closed = True
        self._wake.set()

    async def next(self) -> News | None:
        """Wait for the next piece; None after the last."""
        while not self._pending:
            if self._is_closed:
                return None
            self._wake.clear()
            await self._wake.wait()
        return self._pending.popleft()


class RunningCalls:
    """The calls that run over one connection."""

    def __init__(self) -> None:
        self._calls: set[RunningCall] = set()
        self._withheld = 0

    @contextmanager
    def running(self, call: RunningCall) -> Iterator[None]:
        """Count a call among the running ones."""
        self._calls.add(call)
        try:
            yield
        finally:
            self._calls.discard(call)

    def log(self, news: LogNews) -> None:
        """Give a log message to the calls that it may belong to."""
        listeners = [call for call in self._calls if call.wants(news.level)]
        if not listeners:
            return
        if len({call.caller for call in self._calls}) > 1:
            self._withheld += 1
            return
        for call in listeners:
            call.put(news)

    def take_withheld(self) -> int:
        """Return how many log messages nobody got since this was last asked."""
        withheld, self._withheld = self._withheld, 0
        return withheld
