"""Subscriptions: how many there are, how long they live, and for whom."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from mesh.errors import ResourceExhausted

MOST = 1000
MOST_OF_ONE = 100

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Times:
    """All in seconds."""

    look_again: float = 5.0
    """After so long, and with each item, it is looked at whether the caller may still have it."""
    longest: float = 3600.0
    """A subscription ends then: its reader shows its credential anew, as tokens are not seen to end meanwhile."""


class Streams:
    """The subscriptions of one gateway. `stopping` ends them."""

    def __init__(self, times: Times | None = None) -> None:
        self.stopping = asyncio.Event()
        self._times = times or Times()
        self._owners: Counter[str] = Counter()

    async def follow(
        self, source: AsyncGenerator[T, None], owner: str, check: Callable[[], None]
    ) -> AsyncGenerator[T, None]:
        """What a source gives, until it ends, the gateway stops, or it has been long enough.

        Raises what `check` raises, which is asked before each item and now and then, and ResourceExhausted when there
        are too many, altogether or of one owner.
        """
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self._times.longest
        stopping = asyncio.ensure_future(self.stopping.wait())
        upcoming: asyncio.Future[T] | None = None
        try:
            with self._counted(owner):
                check()
                while loop.time() < ends_at:
                    upcoming = upcoming or asyncio.ensure_future(anext(source))
                    timeout = min(self._times.look_again, ends_at - loop.time())
                    await asyncio.wait((upcoming, stopping), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                    if stopping.done():
                        return
                    check()
                    if upcoming.done():
                        try:
                            item = upcoming.result()
                        except StopAsyncIteration:
                            return
                        upcoming = None
                        yield item
        finally:
            stopping.cancel()
            if upcoming is not None:
                upcoming.cancel()
                await asyncio.wait((upcoming,))
            await source.aclose()

    @contextmanager
    def _counted(self, owner: str) -> Iterator[None]:
        if self._owners.total() >= MOST or self._owners[owner] >= MOST_OF_ONE:
            raise ResourceExhausted(
                "There are too many subscriptions.",
                reason="TOO_MANY_SUBSCRIPTIONS",
                fix="End some, or try again later.",
            )
        self._owners[owner] += 1
        try:
            yield
        finally:
            self._owners[owner] -= 1
            if not self._owners[owner]:
                del self._owners[owner]
