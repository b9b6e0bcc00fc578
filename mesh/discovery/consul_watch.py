"""The watch on Consul.

One blocking query on /v1/health/state/any wakes on every check of every service (measured: 2 ms). What changed in it
tells which services to read again, so one endpoint's change costs one more request, however large the mesh is:

    health/state/any?index=N ──> fingerprints ──> health/service/NAME of those that changed ──> snapshot
    catalog/services each SLOW_PASS seconds, for services without checks or registered by other hands

Everything happens in the reader's own time, hence latest wins: nothing is fetched while the reader is busy, and the
next query answers at once when something changed meanwhile.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from types import MappingProxyType
from typing import Any

from mesh.discovery.consul_client import WAIT, ConsulClient, denied, not_consul
from mesh.discovery.consul_codec import (
    TAG,
    Fingerprint,
    fingerprints,
    has_digests,
    is_service_name,
    parse_instances,
)
from mesh.discovery.registry import RegistrySnapshot
from mesh.errors import MeshError, Unavailable
from mesh.model import Instance
from mesh.runtime import Backoff
from mesh.telemetry import get_logger

# The least time between two queries is as long as it took to take in the one before, within these bounds. A change
# after a quiet time is passed on at once; churn is gathered, and takes half of the time at most.
SHORTEST_GAP = 0.01
LONGEST_GAP = 0.1
SLOW_PASS = WAIT
FIRST_RETRY = 0.1
LONGEST_RETRY = 2.0

_PARALLEL_READS = 8

_log = get_logger(__name__)


class ServiceView:
    """What is known of Consul's services. Belongs to one reader. `answered` is when Consul last had news."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.services: Mapping[str, tuple[Instance, ...]] = MappingProxyType({})
        self.answered = 0.0
        self._clock = clock
        self._index: int | None = None
        self._seen: dict[str, Fingerprint] = {}
        self._unmarked: set[str] = set()
        self._ignored: set[str] = set()
        self._slow_pass_due = 0.0

    def distrust(self) -> None:
        """Read everything again next time: after an outage the same indexes may mean other content."""
        self._index = None
        self._seen = {}
        self._slow_pass_due = 0.0

    async def refresh(self, client: ConsulClient) -> bool:
        """Wait for news (not the first time) and take them in; tells whether `services` changed.

        Raises MeshError when Consul fails; `services` then stay as they were.
        """
        index, checks = await client.checks(self._index)
        self.answered = self._clock()
        if self._index is not None and index < self._index:
            self.distrust()
        if not any(not check.get("ServiceName") for check in _objects(client, checks)):
            await _explain_silence(client)
        try:
            now = {name: prints for name, prints in fingerprints(checks).items() if self._accepts(name)}
        except (KeyError, TypeError, ValueError) as err:
            raise not_consul(client.endpoint, "its checks have another form") from err

        changed = {name for name, prints in now.items() if self._seen.get(name) != prints}
        known = set(now) | (self._unmarked - self._seen.keys())
        if is_slow_pass := self._clock() >= self._slow_pass_due:
            tagged = await self._tagged(client)
            changed |= self._unmarked | (tagged - now.keys())
            known = set(now) | tagged
        answers = await _read_all(client, changed & known)
        services = {name: found for name, found in self.services.items() if name in known}
        for name, (instances, is_marked) in answers.items():
            services[name] = instances
            (self._unmarked.discard if is_marked else self._unmarked.add)(name)
        self._unmarked &= known

        # Only now is everything read; a failure before this line leaves index and fingerprints for the next try.
        self._seen = now
        self._index = max(1, index)
        if is_slow_pass:
            self._slow_pass_due = self._clock() + SLOW_PASS
        found = {name: services[name] for name in sorted(services) if services[name]}
        has_changed = found != dict(self.services)
        self.services = MappingProxyType(found)
        return has_changed

    async def _tagged(self, client: ConsulClient) -> set[str]:
        tags = await client.tags()
        if not tags:
            # Consul's servers register themselves, so a token that sees nothing may read nothing: Consul filters
            # silently, and an empty mesh must not be concluded from it.
            raise denied(client.endpoint, "it shows no service, not even its own")
        try:
            return {name for name, of in tags.items() if TAG in (of or ()) and self._accepts(name)}
        except TypeError as err:
            raise not_consul(client.endpoint, "its services have another form") from err

    def _accepts(self, name: str) -> bool:
        if is_service_name(name):
            return True
        if name not in self._ignored:
            self._ignored.add(name)
            _log.warning("service_ignored", ignored=name[:80], reason="its name is not a service name of a mesh")
        return False


async def watch_consul(
    connect: Callable[[], AbstractAsyncContextManager[ConsulClient]],
) -> AsyncIterator[RegistrySnapshot]:
    """Registry.watch over Consul."""
    view = ServiceView()
    backoff = Backoff(FIRST_RETRY, LONGEST_RETRY)
    error: MeshError | None = None
    is_first = True
    async with connect() as client:
        while True:
            try:
                has_changed = await view.refresh(client)
            except MeshError as err:
                view.distrust()
                if error is None or (err.reason != error.reason and not err.retryable):
                    _log.error("registry_unavailable", registry=str(client.endpoint), error=str(err), reason=err.reason)
                if error is None or str(err) != str(error):
                    yield RegistrySnapshot(view.services, is_available=False, error=str(err))
                error, is_first = err, False
                await asyncio.sleep(backoff.next())
                continue
            taken_in = time.monotonic()
            if error is not None:
                _log.info("registry_available", registry=str(client.endpoint))
            if has_changed or is_first or error is not None:
                yield RegistrySnapshot(view.services, is_available=True)
            error, is_first = None, False
            backoff.reset()
            gap = min(LONGEST_GAP, max(SHORTEST_GAP, taken_in - view.answered))
            await asyncio.sleep(max(0.0, taken_in + gap - time.monotonic()))


async def _read_all(client: ConsulClient, names: Iterable[str]) -> dict[str, tuple[tuple[Instance, ...], bool]]:
    """The instances of services, and whether each change of them shows in their checks."""
    limit = asyncio.Semaphore(_PARALLEL_READS)

    async def read(name: str) -> tuple[tuple[Instance, ...], bool]:
        async with limit:
            entries = await client.health(name)
        try:
            return parse_instances(name, entries), has_digests(entries)
        except (KeyError, TypeError, ValueError, AttributeError) as err:
            raise not_consul(client.endpoint, f"its answer on {name} has another form") from err

    try:
        async with asyncio.TaskGroup() as group:
            reads = {name: group.create_task(read(name)) for name in sorted(names)}
    except* MeshError as several:
        first = several
    else:
        return {name: task.result() for name, task in reads.items()}
    raise _leaf(first)


def _leaf(group: BaseExceptionGroup[MeshError]) -> MeshError:
    """One of the errors of a group; requests that fail together fail for the same reason."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, MeshError)
    return error


async def _explain_silence(client: ConsulClient) -> None:
    """Raise what it means that Consul shows no node at all: each agent is a node."""
    await client.agent_id()
    raise Unavailable(
        f"Consul at {client.endpoint} shows no node: it is starting, or the ACL token may not read nodes.",
        reason="REGISTRY_SHOWS_NOTHING",
        fix='If it stays so, give the token node_prefix "" {policy = "read"}.',
    )


def _objects(client: ConsulClient, items: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    if not all(isinstance(item, dict) for item in items):
        raise not_consul(client.endpoint, "its checks have another form")
    return items
