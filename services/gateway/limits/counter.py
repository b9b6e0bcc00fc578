"""Counts in windows of time, by the library `limits`.

Windows begin at whole multiples of their length, so that one round trip tells all: how many there were, and, by the
clock, when the next window begins. Around such a moment up to twice as many as allowed may pass.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from limits.aio.storage import Storage
from limits.errors import StorageError
from limits.storage import storage_from_string

from mesh.errors import InvalidInput, Unavailable
from mesh.telemetry import get_logger

_DEADLINE = 0.1
_PAUSE = 1.0
"""Seconds for which a storage that did not answer is not asked."""

_SCHEMES = {
    "memory": "async+memory",
    "redis": "async+redis",
    "rediss": "async+rediss",
    "valkey": "async+valkey",
    "valkeys": "async+valkeys",
    "unix": "async+valkey+unix",
}

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Count:
    """How many there were in a window, this one included, and the seconds until the next window."""

    number: int
    resets_in: int


def open_storage(url: str) -> Storage:
    """The storage at a URL. Raises InvalidInput for one that is none; connects at the first use."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in _SCHEMES:
        raise InvalidInput(
            f"{scheme!r} is no storage that is known.",
            field="MESH_CACHE_URL",
            fix=f"Use one of {', '.join(sorted(_SCHEMES))}, such as valkey://HOST:6379.",
        )
    # Valkey's client speaks to Redis, too.
    options = {} if scheme == "memory" else {"implementation": "valkey"}
    storage = storage_from_string(f"{_SCHEMES[scheme]}://{rest}", wrap_exceptions=True, **options)
    assert isinstance(storage, Storage)
    return storage


class Counter:
    """Counts in one storage; one that does not answer in 0.1 s is left alone for a second."""

    def __init__(self, storage: Storage, *, clock: Callable[[], float] = time.time) -> None:
        self._storage = storage
        self._clock = clock
        self._away_until = 0.0
        self._said = False

    async def count(self, key: str, window: int) -> Count:
        """Count one more under `key` in the window of so many seconds. Raises Unavailable when nobody counts."""
        now = self._clock()
        if now < self._away_until:
            raise _away()
        begin = int(now) // window * window
        try:
            async with asyncio.timeout(_DEADLINE):
                number = await self._storage.incr(f"agentmesh/limit/{key}/{begin}", window + 1)
        except (StorageError, TimeoutError, OSError) as err:
            self._away_until = now + _PAUSE
            if not self._said:
                _log.error("limits_not_counted", error=f"{type(err).__name__}: {err}")
                self._said = True
            raise _away() from err
        if self._said:
            _log.warning("limits_counted_again")
            self._said = False
        return Count(number, max(1, begin + window - int(now)))


def _away() -> Unavailable:
    return Unavailable("The limits cannot be counted.", reason="LIMITS_AWAY", fix="Look after Valkey (MESH_CACHE_URL).")
