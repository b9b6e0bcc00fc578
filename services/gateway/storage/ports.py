"""What limits and cache need of a storage. Each raises Unavailable when the storage does not do it."""

from collections.abc import Sequence
from typing import Protocol


class Counts(Protocol):
    """Numbers that are gone after a time."""

    async def add(self, key: str, lifetime: int, amount: int = 1) -> int:
        """Add to a number, which begins at 0 and is gone `lifetime` seconds after that; gives the sum."""
        ...

    async def get(self, key: str) -> int:
        """The number, 0 when there is none."""
        ...


class Answers(Protocol):
    """Bytes that are gone after a time."""

    async def get(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """What there is under each of the keys, read at one moment."""
        ...

    async def put(self, key: str, value: bytes, lifetime: float) -> None:
        """Keep `value` for so many seconds in place of what there was."""
        ...
