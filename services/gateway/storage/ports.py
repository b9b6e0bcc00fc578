"""What limits, cache and A2A need of a storage. Each raises Unavailable when the storage does not do it."""

from collections.abc import Mapping, Sequence
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


class Records(Protocol):
    """Bytes that stay until somebody removes them, in groups; and claims: one of several gateways does a work."""

    async def all(self, group: str) -> Mapping[str, bytes]:
        """All records of a group."""
        ...

    async def get(self, group: str, key: str) -> bytes | None:
        """One record."""
        ...

    async def put(self, group: str, key: str, value: bytes) -> None:
        """Keep a record in place of what there was."""
        ...

    async def remove(self, group: str, key: str) -> None:
        """Remove a record, if there is one."""
        ...

    async def claim(self, name: str, owner: str, lifetime: float) -> bool:
        """Whether `name` is the owner's for so many seconds: nobody else has it, or the owner has it already."""
        ...

    async def release(self, name: str, owner: str) -> None:
        """Give a claim of the owner's up."""
        ...
