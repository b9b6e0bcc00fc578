"""The registry that the control plane keeps itself, with its leases and its file."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from mesh.discovery.embedded.checker import OpenProbe, run_checks
from mesh.discovery.embedded.database import DatabaseWriter, open_writer
from mesh.discovery.embedded.record import LEASE, Record, check_record
from mesh.discovery.embedded.table import LeaseTable, Renewal
from mesh.discovery.registry import HealthCheck, RegistrySnapshot
from mesh.errors import MeshError, ResourceExhausted
from mesh.model import Address, Instance
from mesh.runtime import open_background
from mesh.telemetry import get_logger

START_GRACE = 10.0
"""Seconds after a start in which a launcher must have found its way back; it needs less than four."""

MOST_INSTANCES = 1000
"""Instances of one service."""

PERIOD = 0.5

_log = get_logger(__name__)


class _Version:
    """A number that grows, and that can be waited for."""

    def __init__(self) -> None:
        self._number = 0
        self._grown = asyncio.Event()

    def bump(self) -> None:
        self._number += 1
        self._grown.set()
        self._grown = asyncio.Event()

    async def wait_beyond(self, seen: int) -> int:
        """The number, once it is larger than `seen`."""
        while self._number <= seen:
            await self._grown.wait()
        return self._number


class EmbeddedRegistry:
    """A Registry in this process. Made by `open_embedded_registry`; belongs to one event loop.

    A change holds at once, and the method that makes it returns when it is on disk. When the disk refuses, the change
    holds until this process ends, and the method raises Unavailable, so that whoever registers tries again.
    """

    def __init__(self, table: LeaseTable, writer: DatabaseWriter, *, clock: Callable[[], float]) -> None:
        self._table = table
        self._writer = writer
        self._clock = clock
        self._told = _Version()
        self._checked = _Version()
        self._swept_at = clock()
        self._is_failing = False

    async def register(self, instance: Instance, check: HealthCheck, lease: float = LEASE) -> None:
        """Add or replace an instance; see Registry.register. Raises ResourceExhausted when its service has too many."""
        record = Record(instance, check, lease)
        check_record(record)
        known = self._table.find(instance.id)
        if known is None and self._table.count_of(instance.service) >= MOST_INSTANCES:
            raise ResourceExhausted(
                f"{instance.service} has {MOST_INSTANCES} instances, and the registry takes no more.",
                reason="TOO_MANY_INSTANCES",
                field="instance.service",
                fix="Stop some of them, or use Consul.",
            )
        kept = self._table.put(record, self._clock())
        self._told.bump()
        self._checked.bump()
        await self._writer.write(saved=[kept])

    async def renew(self, instance_id: str) -> bool:
        """Start the lease of an instance anew; False when there is none. Nothing is written."""
        renewal = self._table.renew(instance_id, self._clock())
        if renewal is Renewal.RESUMED:
            _log.info("lease_resumed", instance=instance_id)
            self._told.bump()
        return renewal is not Renewal.UNKNOWN

    async def deregister(self, instance_id: str) -> None:
        """Remove an instance; one that is not there is removed already."""
        if self._table.remove(instance_id):
            self._told.bump()
            self._checked.bump()
            await self._writer.write(removed=[instance_id])

    async def is_registered(self, instance_id: str) -> bool:
        """Tell whether there is such an instance, its lease ended or not."""
        return self._table.find(instance_id) is not None

    def find(self, instance_id: str) -> Record | None:
        """The record of an instance, if there is one."""
        return self._table.find(instance_id)

    async def watch(self) -> AsyncIterator[RegistrySnapshot]:
        """Give a snapshot at once and after every change, for ever; see Registry.watch. It is always available."""
        seen = -1
        while True:
            seen = await self._told.wait_beyond(seen)
            yield RegistrySnapshot(self._table.services, is_available=True)

    async def watch_records(self) -> AsyncIterator[tuple[Record, ...]]:
        """Give all records at once and whenever one was added, replaced or removed; a change of health is none."""
        seen = -1
        while True:
            seen = await self._checked.wait_beyond(seen)
            yield self._table.records

    async def note_check(self, instance_id: str, target: Address, *, is_healthy: bool, output: str) -> None:
        """Take in what a health check at `target` has found."""
        known = self._table.find(instance_id)
        record = self._table.note_check(instance_id, target, is_healthy=is_healthy, output=output, now=self._clock())
        if record is None or known is None:
            return
        self._told.bump()
        # Why it is not well is not worth a write each time that the words change.
        if known.instance.is_healthy != is_healthy:
            _log.info(
                "instance_health",
                service_name=record.instance.service,
                instance=instance_id,
                healthy=is_healthy,
                detail=output,
            )
            await self._write_quietly(saved=(record,))

    async def sweep(self) -> None:
        """End leases and forget the dead. After a time in which this process did not run, they get that time again."""
        now = self._clock()
        late = now - self._swept_at - PERIOD
        self._swept_at = now
        if late > PERIOD:
            _log.warning("registry_was_asleep", seconds=round(late, 1))
            self._table.postpone(late)
        expired = self._table.expire(now)
        if not expired.ended and not expired.forgotten:
            return
        for record in expired.ended:
            _log.warning("lease_ended", service_name=record.instance.service, instance=record.instance.id)
        for record in expired.forgotten:
            _log.warning("instance_forgotten", service_name=record.instance.service, instance=record.instance.id)
        self._told.bump()
        if expired.forgotten:
            self._checked.bump()
            await self._write_quietly(removed=tuple(record.instance.id for record in expired.forgotten))

    async def sweep_for_ever(self) -> None:
        """Sweep once in PERIOD."""
        while True:
            await asyncio.sleep(PERIOD)
            await self.sweep()

    async def _write_quietly(self, *, saved: tuple[Record, ...] = (), removed: tuple[str, ...] = ()) -> None:
        """Write what nobody waits for; a disk that refuses is told once."""
        try:
            await self._writer.write(saved=saved, removed=removed)
        except MeshError as err:
            if not self._is_failing:
                _log.error("registry_not_written", error=str(err), reason=err.reason)
            self._is_failing = True
        else:
            self._is_failing = False


@asynccontextmanager
async def open_embedded_registry(
    path: Path, *, open_probe: OpenProbe, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[EmbeddedRegistry]:
    """The registry whose file is `path`, kept and checked while the block runs.

    What the file knows is told at once, with the health that it had. `open_probe` makes the health checks. Raises what
    InstanceDatabase.open raises.
    """
    async with AsyncExitStack() as stack:
        writer, records = await stack.enter_async_context(open_writer(path))
        table = LeaseTable(records, now=clock(), grace=START_GRACE)
        registry = EmbeddedRegistry(table, writer, clock=clock)
        _log.info("registry_opened", path=str(path), instances=len(records))
        await stack.enter_async_context(open_background(registry.sweep_for_ever()))
        await stack.enter_async_context(open_background(run_checks(registry, open_probe)))
        yield registry
