"""The health checks that the control plane makes of the instances in its own registry.

One task an instance, each on a connection of its own that stays open, at random points of the interval so that they
spread. At most MOST_AT_ONCE run at the same time and MOST_PER_SECOND are begun in a second; with more instances than
that the intervals grow.
"""

import asyncio
import random as _random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from mesh.discovery.embedded.record import Record
from mesh.model import Address

MOST_AT_ONCE = 64
MOST_PER_SECOND = 500.0

_LATE = 1.0
"""Seconds beyond its timeout after which a check says more about this process than about the instance."""

_JITTER = 0.1

Probe = Callable[[], Awaitable[str]]
"""Asks an instance for its health once, within the timeout of its check; "" when it is well, else why it is not."""

OpenProbe = Callable[[Record], AbstractAsyncContextManager[Probe]]
"""Gives the probe of one instance, and closes its connection at the end."""


class CheckedRegistry(Protocol):
    """The part of a registry that is needed here."""

    def watch_records(self) -> AsyncIterator[tuple[Record, ...]]:
        """Give all records at once, and whenever one was added, replaced or removed."""
        ...

    async def note_check(self, instance_id: str, target: Address, *, is_healthy: bool, output: str) -> None:
        """Take in what a check has found."""
        ...


class _Checks:
    """The running checks; one task for each place to be checked."""

    def __init__(self, registry: CheckedRegistry, open_probe: OpenProbe, random: Callable[[], float]) -> None:
        self._registry = registry
        self._open_probe = open_probe
        self._random = random
        self._room = asyncio.Semaphore(MOST_AT_ONCE)
        self._running: dict[str, tuple[tuple[object, ...], asyncio.Task[None]]] = {}

    async def follow(self) -> None:
        """Start and end tasks as instances come and go, for ever."""
        is_first = True
        async with asyncio.TaskGroup() as group:
            async for records in self._registry.watch_records():
                wanted = {record.instance.id: record for record in records}
                for instance_id, (place, task) in list(self._running.items()):
                    if instance_id not in wanted or _place_of(wanted[instance_id]) != place:
                        task.cancel()
                        del self._running[instance_id]
                for instance_id in sorted(wanted.keys() - self._running.keys()):
                    record = wanted[instance_id]
                    # A new one is checked at once, for it gets no calls before; those of an earlier life spread.
                    wait = record.check.interval * self._random() if is_first else 0.0
                    task = group.create_task(self._check_for_ever(record, wait))
                    self._running[instance_id] = (_place_of(record), task)
                is_first = False

    async def _check_for_ever(self, record: Record, wait: float) -> None:
        async with self._open_probe(record) as probe:
            while True:
                await asyncio.sleep(wait)
                async with self._room:
                    began = time.monotonic()
                    output = await probe()
                    is_late = time.monotonic() - began > record.check.timeout + _LATE
                if output and is_late:
                    wait = 0.0
                    continue
                await self._registry.note_check(
                    record.instance.id, record.check.target, is_healthy=not output, output=output
                )
                interval = max(record.check.interval, len(self._running) / MOST_PER_SECOND)
                wait = interval * (1 - _JITTER + 2 * _JITTER * self._random())


async def run_checks(
    registry: CheckedRegistry, open_probe: OpenProbe, *, random: Callable[[], float] = _random.random
) -> None:
    """Check the instances of a registry for ever, and tell it what was found."""
    await _Checks(registry, open_probe, random).follow()


def _place_of(record: Record) -> tuple[object, ...]:
    """What a running check depends on; a change of anything else does not disturb it."""
    return (record.instance.service, record.check)
