"""Counts in a window of time that slides, at the price of one question per request.

Of the window that is over as much counts as the sliding one still covers, as if its requests had come evenly:

        before             current
    |..............|...........|-----|
              |<─── window ───>|                 before * (1 - elapsed / window) + current <= limit

Exact would be a log of all requests (the "moving window"): memory and work grow with the limit. Windows without any of
the one before (the "fixed window") let twice the limit pass around their end. Source of the algorithm:
https://blog.cloudflare.com/counting-things-a-lot-of-different-things/
"""

import contextlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from mesh.errors import Unavailable
from services.gateway.storage import Circuit, Counts

Key = TypeVar("Key")
Value = TypeVar("Value")

_MOST_KNOWN = 10_000


@dataclass(frozen=True, slots=True)
class Taken:
    """Whether one more request may pass, how many more after it, and the seconds until there is more room."""

    is_allowed: bool
    left: int
    resets_in: int


class Counter:
    """Counts under keys. What is refused does not count, so that who goes on trying is let in when there is room again.

    A count that is known to be full is not asked for before there can be room.
    """

    def __init__(self, counts: Counts, circuit: Circuit, *, clock: Callable[[], float] = time.time) -> None:
        self._counts = counts
        self._circuit = circuit
        self._clock = clock
        self._full: _Recent[tuple[str, int, int], float] = _Recent()
        self._before: _Recent[tuple[str, int], tuple[int, int]] = _Recent()

    async def take(self, key: str, limit: int, window: int, *, calls: int = 1) -> Taken:
        """Count one more request under `key`, of which `limit` may pass in `window` seconds; or `calls` at once.

        All of them may pass, or none. Raises Unavailable when nobody counts.
        """
        now = self._clock()
        full_until = self._full.get((key, limit, window), 0.0)
        if now < full_until:
            return Taken(False, 0, math.ceil(full_until - now))
        index, elapsed = divmod(now, window)
        name = f"limit/{key}/{window}/{int(index)}"
        before, current = await self._circuit.ask(lambda: self._count(key, name, window, int(index), calls))
        weighted = before * (1 - elapsed / window) + current
        if weighted <= limit:
            return Taken(True, math.floor(limit - weighted), max(1, math.ceil(window - elapsed)))
        wait = wait_for_room(limit, window, elapsed, before, min(current - calls, limit))
        if calls == 1:
            self._full.put((key, limit, window), now + wait)
        # When that fails it is one too many until the window has passed.
        with contextlib.suppress(Unavailable):
            await self._circuit.ask(lambda: self._counts.add(name, 2 * window, -calls))
        return Taken(False, 0, max(1, math.ceil(wait)))

    async def _count(self, key: str, name: str, window: int, index: int, calls: int) -> tuple[int, int]:
        current = await self._counts.add(name, 2 * window, calls)
        known = self._before.get((key, window), (0, 0))
        # What is over does not change any more.
        if known[0] != index:
            before = await self._counts.get(f"limit/{key}/{window}/{index - 1}")
            known = index, max(0, before)
            self._before.put((key, window), known)
        return known[1], current


def wait_for_room(limit: int, window: float, elapsed: float, before: int, current: int) -> float:
    """The seconds until one more fits, when nobody else comes; for a count that is full."""
    room = limit - current - 1
    if room >= 0 and before > 0:
        return max(0.0, window * (1 - room / before) - elapsed)
    # In the next window, in which what is current now is what was before.
    return window - elapsed + max(0.0, window * (1 - (limit - 1) / max(1, current)))


class _Recent(Generic[Key, Value]):
    """Values by key; when there are too many, the one that was put first goes."""

    def __init__(self) -> None:
        self._values: OrderedDict[Key, Value] = OrderedDict()

    def get(self, key: Key, default: Value) -> Value:
        return self._values.get(key, default)

    def put(self, key: Key, value: Value) -> None:
        self._values.pop(key, None)
        self._values[key] = value
        if len(self._values) > _MOST_KNOWN:
            self._values.popitem(last=False)
