"""One reader's events, in order, in a bounded queue of its own."""

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Protocol

from services.gateway.web.events.event import SLOW, Ending, Event, Notice, Wanted

QUEUE = 256
"""Events that wait for one reader at most, apart from those that it has asked for by `after`."""


class Sees(Protocol):
    """What a reader may have."""

    @property
    def owner(self) -> str:
        """Who reads: one owner cannot take the places of all."""

    def sees(self, event: Event) -> bool:
        """Whether it may have an event."""

    def sees_service(self, service: str) -> bool:
        """Whether it may know that there is a service."""

    def check(self) -> Ending | None:
        """Why it may have nothing any more; None when all is well."""


class Subscription:
    """Made by `EventHub.subscribe`. `next` gives the events and None at the end; `ending` says then why."""

    def __init__(self, wanted: Wanted, sight: Sees, *, begun: float = 0.0) -> None:
        self.wanted = wanted
        self.sight = sight
        self.begun = begun
        self.ending: Ending | None = None
        self._queue: deque[Event | Notice] = deque()
        self._most = QUEUE
        self._wake = asyncio.Event()

    def put(self, event: Event) -> None:
        """Add an event if the reader wants it and may have it; one that does not keep up is ended."""
        if self.ending is not None or not self._takes(event):
            return
        if len(self._queue) >= self._most:
            self.end(SLOW)
            return
        self._queue.append(event)
        self._wake.set()

    def tell(self, notice: Notice) -> None:
        """Add a notice; of those, too, only so many wait."""
        if self.ending is not None:
            return
        if len(self._queue) >= self._most:
            self.end(SLOW)
            return
        self._queue.append(notice)
        self._wake.set()

    def begin_anew(self, wanted: Wanted, notices: Iterable[Notice], missed: Iterable[Event]) -> None:
        """Let other events wait, behind the notices."""
        self.wanted = wanted
        waiting = [item for item in self._queue if isinstance(item, Notice)]
        if len(waiting) >= QUEUE:
            self.end(SLOW)
            return
        self._queue = deque((*waiting, *notices, *(event for event in missed if self._takes(event))))
        # What was missed may be more than what may come to wait.
        self._most = QUEUE + len(self._queue)
        self._wake.set()

    def end(self, ending: Ending) -> None:
        """Let it end; the first reason counts."""
        if self.ending is None:
            self.ending = ending
            if not ending.is_orderly:
                self._queue.clear()
            self._wake.set()

    async def next(self, timeout: float | None = None) -> Event | Notice | None:
        """What comes next; None when it has ended. Raises TimeoutError when there was nothing for `timeout` seconds.

        What the reader may not have any more, or does not want any more, is left out.
        """
        while True:
            while self._queue:
                item = self._queue.popleft()
                if isinstance(item, Notice) or self._takes(item):
                    return item
            if self.ending is not None:
                return None
            self._wake.clear()
            try:
                async with asyncio.timeout(timeout):
                    await self._wake.wait()
            except TimeoutError:
                # Both at once: what has come goes first.
                if not self._wake.is_set():
                    raise

    def _takes(self, event: Event) -> bool:
        return self.wanted.has(event) and self.sight.sees(event)
