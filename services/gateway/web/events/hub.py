"""Events, in one order, for any number of readers: each with a bounded queue of its own."""

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from mesh.errors import ResourceExhausted

KEPT = 1000
"""Events that a reader who comes back may have missed."""
_QUEUE = 256
_MOST_READERS = 1000

TYPES = ("service.added", "service.removed", "service.changed", "config.changed", "task.changed")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that has happened. `id` is EPOCH-SEQUENCE; `subject` the service that it is about, "" for none."""

    id: str
    type: str
    time: str
    subject: str
    data: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As it is sent."""
        return {"id": self.id, "type": self.type, "time": self.time, "subject": self.subject, "data": self.data}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a reader wants: types and subjects, empty for all of them."""

    types: frozenset[str] = frozenset()
    subjects: frozenset[str] = frozenset()

    def has(self, event: Event) -> bool:
        """Whether it wants an event."""
        return (not self.types or event.type in self.types) and (not self.subjects or event.subject in self.subjects)


class Subscription:
    """One reader's events. `next` gives them in order and None at the end; `reason` says then why it has ended."""

    def __init__(self, wanted: Wanted, is_allowed: Callable[[Event], bool]) -> None:
        self.wanted = wanted
        self.reason = ""
        self._is_allowed = is_allowed
        self._queue: deque[Event] = deque()
        self._wake = asyncio.Event()

    def put(self, event: Event) -> None:
        """Add an event if the reader wants it and may have it; one that does not keep up is dropped."""
        if self.reason or not self.wanted.has(event) or not self._is_allowed(event):
            return
        if len(self._queue) >= _QUEUE:
            self.end("slow consumer: it did not keep up with the events")
            return
        self._queue.append(event)
        self._wake.set()

    def end(self, reason: str) -> None:
        """Let it end; what waits is given up."""
        if not self.reason:
            self.reason = reason
            self._queue.clear()
            self._wake.set()

    async def next(self, timeout: float) -> Event | None:
        """The next event; None when it has ended. Raises TimeoutError when there is none for `timeout` seconds."""
        async with asyncio.timeout(timeout):
            while not self._queue:
                if self.reason:
                    return None
                self._wake.clear()
                await self._wake.wait()
        return self._queue.popleft()


class EventHub:
    """Takes events and gives them to all readers. Belongs to one event loop."""

    def __init__(self, *, epoch: str = "", clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.epoch = epoch or secrets.token_hex(4)
        self.dropped = 0
        self._clock = clock
        self._sequence = 0
        self._kept: deque[Event] = deque(maxlen=KEPT)
        self._readers: set[Subscription] = set()

    @property
    def last_id(self) -> str:
        """The id of the newest event."""
        return f"{self.epoch}-{self._sequence}"

    def publish(self, kind: str, subject: str, data: Mapping[str, Any]) -> Event:
        """Tell all readers."""
        self._sequence += 1
        time = self._clock().isoformat(timespec="milliseconds")
        event = Event(self.last_id, kind, time, subject, data)
        self._kept.append(event)
        for reader in tuple(self._readers):
            was_good = not reader.reason
            reader.put(event)
            self.dropped += was_good and bool(reader.reason)
        return event

    @contextmanager
    def subscribe(
        self, wanted: Wanted, is_allowed: Callable[[Event], bool], *, after: str = ""
    ) -> Iterator[tuple[Subscription, bool]]:
        """A subscription from now on, or from the event `after` on, and whether that was possible.

        False: what lies between is not known any more, so the reader has to read all anew. Raises ResourceExhausted
        when there are too many readers.
        """
        if len(self._readers) >= _MOST_READERS:
            raise ResourceExhausted(
                f"{_MOST_READERS} readers follow the events already.",
                reason="TOO_MANY_READERS",
                fix="Try again later, or at another gateway.",
            )
        subscription = Subscription(wanted, is_allowed)
        missed = self._missed(after) if after else ()
        for event in missed or ():
            subscription.put(event)
        self._readers.add(subscription)
        try:
            yield subscription, missed is not None
        finally:
            self._readers.discard(subscription)

    def has_readers(self, kind: str) -> bool:
        """Whether anybody wants events of a type."""
        return any(not reader.wanted.types or kind in reader.wanted.types for reader in self._readers)

    def end_all(self, reason: str) -> None:
        """Let all subscriptions end."""
        for reader in tuple(self._readers):
            reader.end(reason)

    def end_those(self, is_meant: Callable[[Subscription], bool], reason: str) -> None:
        """Let some subscriptions end."""
        for reader in tuple(self._readers):
            if is_meant(reader):
                reader.end(reason)

    def _missed(self, after: str) -> tuple[Event, ...] | None:
        epoch, _, number = after.rpartition("-")
        if epoch != self.epoch or not number.isdigit():
            return None
        oldest = self._sequence - len(self._kept)
        if not oldest <= int(number) <= self._sequence:
            return None
        found = tuple(self._kept)[int(number) - oldest :]
        # More than a queue holds cannot be told at once.
        return found if len(found) <= _QUEUE else None
