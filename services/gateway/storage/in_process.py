"""Storage in the memory of this process, bounded, for a gateway that is alone."""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

_MOST_COUNTS = 50_000
_MOST_BYTES = 16 << 20
_EACH = 256
"""Bytes that an entry takes besides its key and its value, about."""

Clock = Callable[[], float]


class InProcessCounts:
    """Numbers by key. When there are too many the oldest goes, ended or not."""

    def __init__(self, *, most: int = _MOST_COUNTS, clock: Clock = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._counts: OrderedDict[str, tuple[int, float]] = OrderedDict()

    async def add(self, key: str, lifetime: int, amount: int = 1) -> int:
        """See Counts."""
        now = self._clock()
        count, ends_at = self._counts.get(key, (0, 0.0))
        if ends_at <= now:
            self._counts.pop(key, None)
            count, ends_at = 0, now + lifetime
        self._counts[key] = count + amount, ends_at
        while len(self._counts) > self._most or next(iter(self._counts.values()))[1] <= now:
            self._counts.popitem(last=False)
        return count + amount

    async def get(self, key: str) -> int:
        """See Counts."""
        count, ends_at = self._counts.get(key, (0, 0.0))
        return count if self._clock() < ends_at else 0


class InProcessAnswers:
    """Bytes by key. When there are too many, what was not asked for the longest goes first."""

    def __init__(self, *, most_bytes: int = _MOST_BYTES, clock: Clock = time.monotonic) -> None:
        self.size = 0
        self._most_bytes = most_bytes
        self._clock = clock
        self._answers: OrderedDict[str, tuple[bytes, float]] = OrderedDict()

    async def get(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """See Answers."""
        return [self._get(key) for key in keys]

    async def put(self, key: str, value: bytes, lifetime: float) -> None:
        """See Answers."""
        self._remove(key)
        self._answers[key] = value, self._clock() + lifetime
        self.size += _size(key, value)
        while self.size > self._most_bytes:
            self._remove(next(iter(self._answers)))

    def _get(self, key: str) -> bytes | None:
        found = self._answers.get(key)
        if found is None:
            return None
        value, ends_at = found
        if ends_at <= self._clock():
            self._remove(key)
            return None
        self._answers.move_to_end(key)
        return value

    def _remove(self, key: str) -> None:
        found = self._answers.pop(key, None)
        if found is not None:
            self.size -= _size(key, found[0])


def _size(key: str, value: bytes) -> int:
    return _EACH + len(key) + len(value)
