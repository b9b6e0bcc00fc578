"""Which one of several control planes does what only one may do: the holder of a lock in Consul.

    session (TTL, renewed) ──> lock on a key ──> is_leader
                          └──> a key of one's own ──> peers

A leader that cannot renew its session stops being one before Consul can give the lock to another.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Self

from mesh.discovery.consul_client import ConsulEndpoint
from mesh.discovery.consul_kv import ConsulKv, open_kv, watch_keys
from mesh.errors import MeshError
from mesh.runtime import Backoff, open_background
from mesh.telemetry import get_logger

LEADER_KEY = "agentmesh/leader"
PEERS_PREFIX = "agentmesh/control-planes/"

_TTL = 10
"""Seconds; the least that Consul takes."""
_RENEW = _TTL / 4
_LEASE = _TTL * 0.8
"""Seconds after the last renewal was sent for which a leader believes in itself."""

_GAP = 0.1
"""Seconds between two attempts at a lock that looks free."""

_log = get_logger(__name__)


class Leadership:
    """Whether this process leads. Made by `open_leadership`; belongs to one event loop.

    `leader` is the name of the one that does, "" while that is not known; `peers` are the names of all that contend.
    """

    def __init__(self, name: str, *, key: str = LEADER_KEY, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._key = key
        self._clock = clock
        self._holds_lock = False
        self._lease_end = 0.0
        self._changed = asyncio.Event()
        self._is_alone = False
        self.leader = ""
        self.peers: tuple[str, ...] = ()

    @classmethod
    def alone(cls, name: str) -> Self:
        """The leadership of a control plane that has no others beside it."""
        leadership = cls(name)
        leadership._is_alone = True
        leadership.leader, leadership.peers = name, (name,)
        return leadership

    @property
    def is_leader(self) -> bool:
        """True while the lock is ours for certain."""
        return self._is_alone or (self._holds_lock and self._clock() < self._lease_end)

    async def wait_for_change(self) -> None:
        """Return when the lock was won or lost after this call."""
        await self._changed.wait()

    async def hold(self, endpoint: ConsulEndpoint) -> None:
        """Try to lead, for ever; gives the lock back when cancelled."""
        backoff = Backoff(0.2, 5.0)
        async with open_kv(endpoint) as kv:
            while True:
                try:
                    await self._lead(kv)
                    backoff.reset()
                except MeshError as err:
                    _log.warning("leadership_unknown", reason=err.reason, error=str(err))
                self._set(False)
                await asyncio.sleep(backoff.next())

    async def follow_peers(self, endpoint: ConsulEndpoint) -> None:
        """Keep `peers` up to date, for ever."""
        async for view in watch_keys(lambda: open_kv(endpoint), PEERS_PREFIX):
            if view.is_available:
                self.peers = tuple(sorted(key.removeprefix(PEERS_PREFIX) for key in view.entries))

    async def _lead(self, kv: ConsulKv) -> None:
        """One session from its start to its end. Raises MeshError when Consul fails for longer than the lease."""
        started = self._clock()
        session = await kv.create_session(f"agentmesh {self._name}", ttl=_TTL)
        try:
            self._lease_end = started + _LEASE
            await kv.acquire(f"{PEERS_PREFIX}{self._name}", b"", session)
            async with asyncio.TaskGroup() as group:
                contend = group.create_task(self._contend(kv, session))
                try:
                    await self._renew(kv, session)
                finally:
                    contend.cancel()
        except* MeshError as several:
            raise _first(several) from several
        finally:
            self._set(False)
            await asyncio.shield(_give_back(kv, session))

    async def _renew(self, kv: ConsulKv, session: str) -> None:
        """Prolong the session until it has ended."""
        while True:
            await asyncio.sleep(_RENEW)
            asked = self._clock()
            try:
                if not await kv.renew_session(session):
                    return
            except MeshError:
                if self._clock() >= self._lease_end:
                    raise
                continue
            self._lease_end = asked + _LEASE

    async def _contend(self, kv: ConsulKv, session: str) -> None:
        """Take the lock whenever it is free."""
        index: int | None = None
        while True:
            try:
                index, found = await kv.wait(self._key, index)
                entry = found.get(self._key)
                if entry is None or not entry.session:
                    if await kv.acquire(self._key, self._name.encode(), session):
                        self.leader = self._name
                        self._set(True)
                    index = None
                    await asyncio.sleep(_GAP)
                    continue
                self.leader = entry.value.decode(errors="replace")
                self._set(entry.session == session)
            except MeshError:
                # The renewal decides when this has lasted for too long.
                index = None
                await asyncio.sleep(_RENEW)

    def _set(self, holds_lock: bool) -> None:
        if holds_lock == self._holds_lock:
            return
        self._holds_lock = holds_lock
        _log.info("leadership_won" if holds_lock else "leadership_lost", name=self._name)
        self._changed.set()
        self._changed = asyncio.Event()


@asynccontextmanager
async def open_leadership(endpoint: ConsulEndpoint, name: str, *, key: str = LEADER_KEY) -> AsyncIterator[Leadership]:
    """Contend for the lock on `key` under `name` while the context is open."""
    leadership = Leadership(name, key=key)
    async with open_background(leadership.hold(endpoint)), open_background(leadership.follow_peers(endpoint)):
        yield leadership


async def _give_back(kv: ConsulKv, session: str) -> None:
    """Let the next one lead at once; a session that cannot be ended ends by its TTL."""
    try:
        async with asyncio.timeout(2.0):
            await kv.destroy_session(session)
    except (MeshError, TimeoutError) as err:
        _log.info("session_left_to_its_end", error=str(err))


def _first(group: BaseExceptionGroup[MeshError]) -> MeshError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, MeshError)
    return error
