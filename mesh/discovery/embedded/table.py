"""The registered instances and what keeps each alive, without I/O: the caller brings the time.

An instance is healthy while its checks pass and its lease is renewed. One that has not been for as long as its check
says is forgotten. One of an earlier life whose check fails and whose launcher does not come back is forgotten sooner:
who has killed a whole mesh need not see its dead in the next one. Times are those of a monotonic clock, so that a clock
that is set ends no lease.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from types import MappingProxyType

from mesh.discovery.embedded.record import Record, without_health
from mesh.model import Address, Instance


@dataclass(slots=True)
class _Entry:
    record: Record
    ends_at: float
    critical_since: float | None
    unheard_until: float | None = None
    has_ended: bool = False

    @property
    def instance(self) -> Instance:
        """The instance as it is told: without a lease it is not healthy, whatever its check says."""
        told = self.record.instance
        if not self.has_ended:
            return told
        output = f"Its lease has ended: its launcher has not been heard of for {self.record.lease:g} s."
        return replace(told, is_healthy=False, health_output=output)

    def is_dead(self, now: float) -> bool:
        """Whether it is to be forgotten."""
        if self.critical_since is None:
            return False
        is_left_over = self.unheard_until is not None and now >= self.unheard_until
        return is_left_over or now - self.critical_since >= self.record.check.deregister_after


class Renewal(Enum):
    """What a renewal has met: no such instance, one that lives, or one whose lease had ended."""

    UNKNOWN = "unknown"
    RENEWED = "renewed"
    RESUMED = "resumed"


@dataclass(frozen=True, slots=True)
class Expired:
    """What `expire` has found: instances that have lost their lease, and those that were forgotten."""

    ended: tuple[Record, ...] = ()
    forgotten: tuple[Record, ...] = ()


class LeaseTable:
    """All registered instances. Every method but the readers takes effect at once, in memory."""

    def __init__(self, records: Iterable[Record] = (), *, now: float = 0.0, grace: float = 0.0) -> None:
        """Begin with the records of an earlier life: each keeps its health, and lives for `grace` seconds at least.

        After `grace` those are forgotten whose check fails and that were not renewed.
        """
        self._entries = {
            record.instance.id: _Entry(
                record,
                ends_at=now + max(record.lease, grace),
                critical_since=None if record.instance.is_healthy else now,
                unheard_until=now + grace,
            )
            for record in records
        }
        self._ids: dict[str, set[str]] = {}
        for record in self.records:
            self._ids.setdefault(record.instance.service, set()).add(record.instance.id)
        self._services: dict[str, tuple[Instance, ...]] = {}
        for service in self._ids:
            self._refresh(service)

    @property
    def services(self) -> Mapping[str, tuple[Instance, ...]]:
        """All instances by service; each tuple is sorted by id and never empty. A copy that stays as it is."""
        return MappingProxyType({name: self._services[name] for name in sorted(self._services)})

    @property
    def records(self) -> tuple[Record, ...]:
        """All records, in no order."""
        return tuple(entry.record for entry in self._entries.values())

    def find(self, instance_id: str) -> Record | None:
        """The record of an instance, if there is one."""
        entry = self._entries.get(instance_id)
        return entry.record if entry else None

    def count_of(self, service: str) -> int:
        """How many instances a service has."""
        return len(self._services.get(service, ()))

    def put(self, record: Record, now: float) -> Record:
        """Add a record, or replace the one with the same id, and give it as it is kept.

        A new instance is unhealthy. One that is replaced keeps its health as long as it is checked in the same way at
        the same address.
        """
        known = self._entries.get(record.instance.id)
        kept = without_health(record)
        critical_since: float | None = now
        if known is not None and _is_same_place(known.record, record):
            told = known.record.instance
            instance = replace(record.instance, is_healthy=told.is_healthy, health_output=told.health_output)
            kept = replace(record, instance=instance)
            critical_since = known.critical_since if not told.is_healthy else None
        if known is not None:
            self.remove(record.instance.id)
        self._entries[record.instance.id] = _Entry(kept, now + record.lease, critical_since)
        self._ids.setdefault(record.instance.service, set()).add(record.instance.id)
        self._refresh(record.instance.service)
        return kept

    def renew(self, instance_id: str, now: float) -> Renewal:
        """Start the lease of an instance anew."""
        entry = self._entries.get(instance_id)
        if entry is None:
            return Renewal.UNKNOWN
        entry.ends_at = max(entry.ends_at, now + entry.record.lease)
        entry.unheard_until = None
        if not entry.has_ended:
            return Renewal.RENEWED
        entry.has_ended = False
        entry.critical_since = None if entry.record.instance.is_healthy else now
        self._refresh(entry.record.instance.service)
        return Renewal.RESUMED

    def remove(self, instance_id: str) -> bool:
        """Remove an instance; False when there is none."""
        entry = self._entries.pop(instance_id, None)
        if entry is None:
            return False
        self._ids[entry.record.instance.service].remove(instance_id)
        self._refresh(entry.record.instance.service)
        return True

    def note_check(
        self, instance_id: str, target: Address, *, is_healthy: bool, output: str, now: float
    ) -> Record | None:
        """Take in what a check at `target` has found; gives the record when that changes it.

        The result of a check at an address where the instance is no more says nothing.
        """
        entry = self._entries.get(instance_id)
        if entry is None or entry.record.check.target != target:
            return None
        told = entry.record.instance
        output = "" if is_healthy else output
        if (told.is_healthy, told.health_output) == (is_healthy, output):
            return None
        entry.record = replace(entry.record, instance=replace(told, is_healthy=is_healthy, health_output=output))
        if is_healthy and not entry.has_ended:
            entry.critical_since = None
        elif entry.critical_since is None:
            entry.critical_since = now
        self._refresh(told.service)
        return entry.record

    def expire(self, now: float) -> Expired:
        """End the leases that have not been renewed, and forget what has been critical for too long."""
        ended, forgotten = [], []
        for entry in self._entries.values():
            if not entry.has_ended and now >= entry.ends_at:
                entry.has_ended = True
                entry.critical_since = now if entry.critical_since is None else entry.critical_since
                ended.append(entry.record)
            if entry.is_dead(now):
                forgotten.append(entry.record)
        for record in forgotten:
            self.remove(record.instance.id)
        for service in {record.instance.service for record in ended}:
            self._refresh(service)
        return Expired(tuple(ended), tuple(forgotten))

    def postpone(self, seconds: float) -> None:
        """Move every deadline into the future: nobody was listening for so long."""
        for entry in self._entries.values():
            entry.ends_at += seconds
            if entry.critical_since is not None:
                entry.critical_since += seconds
            if entry.unheard_until is not None:
                entry.unheard_until += seconds

    def _refresh(self, service: str) -> None:
        found = tuple(self._entries[instance_id].instance for instance_id in sorted(self._ids.get(service, ())))
        if found:
            self._services[service] = found
        else:
            self._services.pop(service, None)
            self._ids.pop(service, None)


def _is_same_place(one: Record, other: Record) -> bool:
    return (one.instance.service, one.check.target, one.check.use_tls) == (
        other.instance.service,
        other.check.target,
        other.check.use_tls,
    )
