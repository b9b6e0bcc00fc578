"""Events, in one order, for any number of readers.

    publish ──> ring of the newest ──> Subscription, one for each reader
                       └── after=ID: what a reader has missed; or `reset` and a snapshot, when that is not known

An id is EPOCH-SEQUENCE; another epoch is another gateway, or the same one after a start.
"""

import asyncio
import re
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from opentelemetry import metrics

from mesh.errors import Unavailable
from services.gateway.web.events.event import OLD, STOPPING, Ending, Event, Notice, Wanted
from services.gateway.web.events.subscription import Sees, Subscription

KEPT = 1000
"""Events that a reader who comes back may have missed."""
MOST_READERS = 1000
MOST_OF_ONE = 250
"""Readers of one owner."""
LONGEST = 3600.0
"""Seconds after which a reader has to show its credential anew: nobody sees a token end while a stream lives."""

_ID = re.compile(r"([0-9a-f]{1,32})-([0-9]{1,18})", re.ASCII)

Snapshot = Callable[[Wanted, Sees], Mapping[str, Any]]


class EventHub:
    """Takes events and gives them to all readers. Belongs to one event loop.

    `snapshot` tells what the events so far have led to; readers get it that cannot be told what they have missed.
    Streams live for `longest` seconds.
    """

    def __init__(
        self,
        snapshot: Snapshot = lambda wanted, sight: {},
        *,
        epoch: str = "",
        longest: float = LONGEST,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.epoch = epoch or secrets.token_hex(4)
        self.dropped = 0
        """Readers that were ended because they did not keep up."""
        self.snapshot = snapshot
        self._longest = longest
        self._monotonic = monotonic
        self._clock = clock
        self._sequence = 0
        self._kept: deque[Event] = deque(maxlen=KEPT)
        self._readers: set[Subscription] = set()
        self._owners: Counter[str] = Counter()
        self._is_closing = False
        self._has_none = asyncio.Event()
        self._has_none.set()
        self._wanted_changed = asyncio.Event()
        meter = metrics.get_meter("agentmesh")
        self._published = meter.create_counter("gateway.events.published", description="Events.")
        self._ended = meter.create_counter("gateway.events.ended", description="Streams ended by the gateway.")
        self._open = meter.create_up_down_counter("gateway.events.readers", description="Streams that are open.")

    @property
    def last_id(self) -> str:
        """The id of the newest event."""
        return f"{self.epoch}-{self._sequence}"

    @property
    def readers(self) -> int:
        """Streams that are open."""
        return len(self._readers)

    def publish(self, kind: str, subject: str, data: Mapping[str, Any]) -> Event:
        """Tell all readers."""
        self._sequence += 1
        moment = self._clock().isoformat(timespec="milliseconds")
        event = Event(self.last_id, kind, moment, subject, data)
        self._kept.append(event)
        self._published.add(1, {"type": kind})
        for reader in tuple(self._readers):
            was_open = reader.ending is None
            reader.put(event)
            if was_open and reader.ending is not None:
                self._count(reader.ending)
        return event

    @contextmanager
    def subscribe(self, wanted: Wanted, sight: Sees, *, after: str = "") -> Iterator[Subscription]:
        """A subscription from now on, or from the event `after` on.

        The first that it gives is the notice `ready`. When what lies between is not known any more, `reset` and
        `snapshot` follow. Raises Unavailable when there are too many readers or the gateway stops.
        """
        self._check_room(sight.owner)
        subscription = Subscription(wanted, sight, begun=self._monotonic())
        self._begin(subscription, "ready", wanted, after or self.last_id)
        self._readers.add(subscription)
        self._owners[sight.owner] += 1
        self._has_none.clear()
        self._open.add(1)
        self._tell_wanted()
        try:
            yield subscription
        finally:
            self._readers.discard(subscription)
            self._owners[sight.owner] -= 1
            if not self._owners[sight.owner]:
                del self._owners[sight.owner]
            self._open.add(-1)
            self._tell_wanted()
            if not self._readers:
                self._has_none.set()

    def change(self, subscription: Subscription, wanted: Wanted, *, after: str = "") -> None:
        """Let a subscription want something else from now on, or from the event `after` on."""
        if after:
            self._begin(subscription, "subscribed", wanted, after)
        else:
            subscription.wanted = wanted
            subscription.tell(Notice("subscribed", {"complete": True}))
        self._tell_wanted()

    def reset_all(self) -> None:
        """Let all readers read all anew, those of now and those who come back: events did not tell what has changed."""
        self._sequence += 1
        self._kept.clear()
        for reader in tuple(self._readers):
            for notice in self._reset(reader.wanted, reader.sight):
                reader.tell(notice)

    def wants(self, kind: str, subject: str) -> bool:
        """Whether anybody wants events of a type about a service, and may know of it."""
        return any(
            reader.wanted.has_type(kind) and reader.wanted.has_subject(subject) and reader.sight.sees_service(subject)
            for reader in self._readers
        )

    async def wait_wanted(self) -> None:
        """Return when somebody wants something else than before."""
        await self._wanted_changed.wait()

    def check_all(self) -> None:
        """End the streams of those who may have nothing any more, and those that are too old."""
        now = self._monotonic()
        for reader in tuple(self._readers):
            ending = OLD if now - reader.begun >= self._longest else reader.sight.check()
            if ending is not None:
                self.end(reader, ending)

    def end(self, subscription: Subscription, ending: Ending) -> None:
        """Let a subscription end."""
        if subscription.ending is None:
            subscription.end(ending)
            self._count(ending)

    async def close(self, grace: float) -> None:
        """Take no more readers, let all of them end, and wait until they have, for up to `grace` seconds."""
        self._is_closing = True
        for reader in tuple(self._readers):
            self.end(reader, STOPPING)
        try:
            async with asyncio.timeout(grace):
                await self._has_none.wait()
        except TimeoutError:
            return

    def _begin(self, subscription: Subscription, kind: str, wanted: Wanted, after: str) -> None:
        missed = self._missed(after)
        if missed is None:
            notices = [Notice(kind, {"complete": False}), *self._reset(wanted, subscription.sight)]
        else:
            # Not the newest: what lies between has not been read yet.
            notices = [Notice(kind, {"complete": True}, after)]
        subscription.begin_anew(wanted, notices, missed or ())

    def _reset(self, wanted: Wanted, sight: Sees) -> tuple[Notice, Notice]:
        detail = "Some events are missing: forget what you know, and take the snapshot that follows."
        return (
            Notice("reset", {"reason": "EVENTS_MISSING", "detail": detail}),
            Notice("snapshot", {"data": self.snapshot(wanted, sight)}, self.last_id),
        )

    def _missed(self, after: str) -> tuple[Event, ...] | None:
        """What came after an event; None when that is not known."""
        found = _ID.fullmatch(after)
        if found is None or found[1] != self.epoch:
            return None
        number, oldest = int(found[2]), self._sequence - len(self._kept)
        if not oldest <= number <= self._sequence:
            return None
        return tuple(self._kept)[number - oldest :]

    def _check_room(self, owner: str) -> None:
        if self._is_closing:
            raise Unavailable(STOPPING.detail, reason=STOPPING.reason)
        if len(self._readers) >= MOST_READERS:
            raise Unavailable(
                f"{MOST_READERS} readers follow the events already.",
                reason="TOO_MANY_READERS",
                fix="Try again later, or at another gateway.",
            )
        if self._owners[owner] >= MOST_OF_ONE:
            raise Unavailable(
                f"{MOST_OF_ONE} streams of yours follow the events already.",
                reason="TOO_MANY_OF_ONE",
                fix="Close some first.",
            )

    def _tell_wanted(self) -> None:
        self._wanted_changed.set()
        self._wanted_changed = asyncio.Event()

    def _count(self, ending: Ending) -> None:
        self.dropped += ending.reason == "SLOW_CONSUMER"
        self._ended.add(1, {"reason": ending.reason})
