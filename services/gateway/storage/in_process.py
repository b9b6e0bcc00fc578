"""Storage in the memory of this process, bounded, for a gateway that is alone."""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

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


class InProcessRecords:
    """Records of a gateway that is alone; they end with it."""

    def __init__(self, *, clock: Clock = time.monotonic) -> None:
        self._groups: dict[str, dict[str, bytes]] = {}
        self._claims: dict[str, tuple[str, float]] = {}
        self._clock = clock

    async def all(self, group: str) -> Mapping[str, bytes]:
        """See Records."""
        return dict(self._groups.get(group, {}))

    async def get(self, group: str, key: str) -> bytes | None:
        """See Records."""
        return self._groups.get(group, {}).get(key)

    async def put(self, group: str, key: str, value: bytes) -> None:
        """See Records."""
        self._groups.setdefault(group, {})[key] = value

    async def remove(self, group: str, key: str) -> None:
        """See Records."""
        self._groups.get(group, {}).pop(key, None)

    async def claim(self, name: str, owner: str, lifetime: float) -> bool:
        """See Records."""
        now = self._clock()
        holder, ends_at = self._claims.get(name, ("", 0.0))
        if holder not in ("", owner) and now < ends_at:
            return False
        self._claims[name] = owner, now + lifetime
        return True

    async def release(self, name: str, owner: str) -> None:
        """See Records."""
        if self._claims.get(name, ("", 0.0))[0] == owner:
            del self._claims[name]


def _size(key: str, value: bytes) -> int:
    return _EACH + len(key) + len(value)
