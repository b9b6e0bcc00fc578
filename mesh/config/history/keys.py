"""What a history needs of the place where it is kept."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """The value of one key. `version` is another one whenever the value was written anew with other content."""

    value: bytes = field(repr=False)
    version: str


class KeyStore(Protocol):
    """A few small values by key; keys are words separated by slashes. Every method raises MeshError when it fails."""

    async def get(self, key: str) -> Entry | None:
        """The entry of a key, None when there is none."""
        ...

    async def put(self, key: str, value: bytes, *, expected: str | None = None) -> bool:
        """Write a key; it is durable when this returns.

        With `expected` it is written only while the key has this version ("": while there is none); tells whether it
        was. Raises InvalidInput for a value that the store has no room for.
        """
        ...

    async def delete(self, key: str) -> None:
        """Remove a key; one that is not there is removed already."""
        ...

    def watch(self) -> AsyncIterator[None]:
        """Give at once, and again after every change of any key, by whomever; changes may be merged. For ever."""
        ...
