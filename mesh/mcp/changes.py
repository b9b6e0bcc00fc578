"""Who watches what: tells changes of one connection to all its watchers.

    server --notification--> ChangeFeed --+--> Watcher (one for each Watch call)
                                          +--> Watcher

Changes say only "read anew", so a watcher that is behind holds each of them once.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from mesh.errors import MeshError

MAX_PENDING = 1024

ListKind = Literal["tools", "resources", "prompts"]


@dataclass(frozen=True, slots=True)
class ListChanged:
    """One of the server's lists has changed."""

    kind: ListKind


@dataclass(frozen=True, slots=True)
class ResourceChanged:
    """A resource has changed."""

    uri: str


Change = ListChanged | ResourceChanged


class Watcher:
    """The changes that one caller has not been told yet; an equal change waits only once.

    When more than 1024 different ones wait, resource changes are replaced by one "resources have changed".
    """

    def __init__(self) -> None:
        self._pending: dict[Change, None] = {}
        self._wake = asyncio.Event()
        self._end: Callable[[], MeshError] | None = None

    def put(self, change: Change) -> None:
        """Add a change, unless the same one waits already."""
        if change not in self._pending and len(self._pending) >= MAX_PENDING:
            self._pending = {c: None for c in self._pending if isinstance(c, ListChanged)}
            change = ListChanged("resources")
        self._pending[change] = None
        self._wake.set()

    def end(self, error: Callable[[], MeshError]) -> None:
        """Let `next` raise an error once everything has been taken."""
        self._end = error
        self._wake.set()

    async def next(self) -> Change:
        """Wait for a change and take it."""
        while not self._pending:
            if self._end is not None:
                raise self._end()
            self._wake.clear()
            await self._wake.wait()
        change = next(iter(self._pending))
        del self._pending[change]
        return change


class ChangeFeed:
    """All watchers of one connection in the handshake era, where the server tells a session, not a watcher."""

    def __init__(self) -> None:
        self._watchers: dict[Watcher, frozenset[str]] = {}

    def publish(self, change: Change) -> None:
        """Tell a change to those whom it concerns.

        A server may name a part of a watched resource (".../a/b" for ".../a"), as the specification allows.
        """
        for watcher, uris in self._watchers.items():
            if isinstance(change, ListChanged) or any(_is_part_of(change.uri, uri) for uri in uris):
                watcher.put(change)

    def end(self, error: Callable[[], MeshError]) -> None:
        """Tell all watchers that nothing more will come."""
        for watcher in self._watchers:
            watcher.end(error)

    @contextmanager
    def watcher(self, uris: frozenset[str]) -> Iterator[Watcher]:
        """Register a watcher of all list changes and of some resources."""
        watcher = Watcher()
        self._watchers[watcher] = uris
        try:
            yield watcher
        finally:
            del self._watchers[watcher]


def _is_part_of(uri: str, watched: str) -> bool:
    return uri == watched or uri.startswith(watched.rstrip("/") + "/")
