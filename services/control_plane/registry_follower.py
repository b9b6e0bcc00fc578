"""Keep the state in step with the registry, through its absences.

A registry that was away does not know at first what it knew before: Consul marks every instance critical until its
first check after a restart has run, and one that lost its data knows no instance until the launchers have registered
anew. Traffic must not stop for that. So for `SETTLE_SECONDS` after the registry has come back, an instance that was
healthy before stays as it was.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from mesh.discovery import RegistrySnapshot
from mesh.model import Instance
from mesh.state import StateStore
from mesh.telemetry import get_logger

SETTLE_SECONDS = 10.0

Services = Mapping[str, tuple[Instance, ...]]

_log = get_logger(__name__)


class WatchedRegistry(Protocol):
    """The part of a registry that is needed here."""

    def watch(self) -> AsyncIterator[RegistrySnapshot]:
        """Give snapshots, newest wins, for ever."""
        ...


@dataclass(slots=True)
class RegistryStatus:
    """Whether the registry answers, for operators."""

    is_available: bool = False
    error: str = "The registry has not answered yet."


def settle(before: Services, now: Services) -> Services:
    """What to believe right after the registry came back: `now`, but what was healthy in `before` stays."""
    merged: dict[str, tuple[Instance, ...]] = {}
    for name in {*before, *now}:
        instances = {instance.id: instance for instance in now.get(name, ())}
        for known in before.get(name, ()):
            found = instances.get(known.id)
            if known.is_healthy and (found is None or not found.is_healthy):
                instances[known.id] = known
        merged[name] = tuple(instances[key] for key in sorted(instances))
    return merged


class RegistryFollower:
    """Writes every snapshot of `registry` into `store`. `status` tells how the registry is."""

    def __init__(
        self, registry: WatchedRegistry, store: StateStore, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.status = RegistryStatus()
        self._registry = registry
        self._store = store
        self._clock = clock
        self._settled_at = 0.0
        self._settling = asyncio.Event()
        self._first_snapshot = asyncio.Event()
        self._newest: Services = {}

    @property
    def first_snapshot(self) -> asyncio.Event:
        """Set once the registry has answered for the first time."""
        return self._first_snapshot

    def take(self, snapshot: RegistrySnapshot) -> None:
        """Write one snapshot into the store."""
        if not snapshot.is_available:
            self.status = RegistryStatus(is_available=False, error=snapshot.error)
            return
        if self._first_snapshot.is_set() and not self.status.is_available:
            self._settled_at = self._clock() + SETTLE_SECONDS
            self._settling.set()
            _log.info("registry_settling", seconds=SETTLE_SECONDS)
        self.status = RegistryStatus(is_available=True, error="")
        self._newest = snapshot.services
        self.apply()
        self._first_snapshot.set()

    def apply(self) -> None:
        """Write what the newest snapshot means at this moment into the store."""
        is_settling = self._clock() < self._settled_at
        self._store.set_services(settle(self._store.current.services, self._newest) if is_settling else self._newest)

    async def follow(self) -> None:
        """Write snapshots for ever; the registry's watch decides how to wait and to retry."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._end_settling())
            async for snapshot in self._registry.watch():
                self.take(snapshot)

    async def _end_settling(self) -> None:
        while True:
            await self._settling.wait()
            self._settling.clear()
            await asyncio.sleep(max(0.0, self._settled_at - self._clock()))
            # One that has gone again did not get to tell what it knows; when it is back, it settles anew.
            if self.status.is_available:
                self.apply()
