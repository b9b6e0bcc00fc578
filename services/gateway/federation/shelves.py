"""Keeps a shelf for each server and agent of the mesh, each in a task of its own."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from mesh.errors import MeshError, Unavailable
from mesh.runtime import Backoff
from mesh.telemetry import get_logger
from services.gateway.federation.names import Names
from services.gateway.federation.shelf import KINDS, Changed, MakeSource, OfferKind, Shelf, Source

_FILL_SECONDS = 10.0
"""For a server to tell all that it offers."""
_FIRST_LOOK_SECONDS = 2.0
"""That a listing waits at most for servers of which nothing is known yet."""
_CALM_SECONDS = 0.05
_REFRESH_SECONDS = 300.0
"""After that much time without news lists are read anew, whatever the server has said."""
_MOST_NEWS = 256

_log = get_logger(__name__)


class Shelves:
    """All that is offered. Made by `open_shelves`."""

    def __init__(self, make_source: MakeSource) -> None:
        self._make_source = make_source
        self._shelves: dict[str, Shelf] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._listeners: set[asyncio.Queue[Changed]] = set()
        self._looked = asyncio.Event()
        self._well: dict[str, int] = {}
        self._nudges: dict[str, asyncio.Event] = {}
        self._names: Names | None = None
        self._prompt_names: Names | None = None
        self.version = 0
        """Grows with each change of anything."""

    def follow(self, services: Iterable[tuple[str, str, int]]) -> None:
        """Keep shelves for these services, given by name, kind and number of healthy instances, and for no others."""
        services = tuple(services)
        wanted = {name: kind for name, kind, _ in services}
        for name in [name for name, shelf in self._shelves.items() if wanted.get(name) != shelf.kind]:
            self._tasks.pop(name).cancel()
            del self._nudges[name]
            self._well.pop(name, None)
            shelf = self._shelves.pop(name)
            for kind in KINDS:
                if shelf.offers[kind]:
                    self._tell(name, kind)
        for name, what in wanted.items():
            if name not in self._shelves:
                shelf = self._shelves[name] = Shelf(name, what)
                self._nudges[name] = asyncio.Event()
                self._tasks[name] = asyncio.create_task(self._keep(shelf, self._make_source(name, what)))

        for name, _, well in services:
            if well > self._well.get(name, 0):
                # It has just come up, or back: no reason to wait any longer.
                self._nudges[name].set()
                if not self._shelves[name].is_filled:
                    self._shelves[name].awaited_until = time.monotonic() + _FIRST_LOOK_SECONDS
            self._well[name] = well

    async def look(self) -> list[Shelf]:
        """All shelves, sorted by name. Waits a moment for servers that have just come up, and never for others."""
        while awaited := [shelf.awaited_until for shelf in self._shelves.values() if not shelf.is_filled]:
            left = max(awaited) - time.monotonic()
            if left <= 0:
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._looked.wait()
        return [self._shelves[name] for name in sorted(self._shelves)]

    def find(self, server: str) -> Shelf | None:
        """One shelf."""
        return self._shelves.get(server)

    def split_tool(self, name: str) -> tuple[str, str] | None:
        """Server and name of a tool."""
        if self._names is None:
            self._names = self._names_of("tools")
        return self._names.split(name)

    def split_prompt(self, name: str) -> tuple[str, str] | None:
        """Server and name of a prompt."""
        if self._prompt_names is None:
            self._prompt_names = self._names_of("prompts")
        return self._prompt_names.split(name)

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[asyncio.Queue[Changed]]:
        """Hear what changes from now on; who does not keep up misses what is oldest."""
        queue: asyncio.Queue[Changed] = asyncio.Queue(_MOST_NEWS)
        self._listeners.add(queue)
        try:
            yield queue
        finally:
            self._listeners.discard(queue)

    async def close(self) -> None:
        """Stop keeping."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _names_of(self, kind: OfferKind) -> Names:
        return Names((offer.server, offer.key) for shelf in self._shelves.values() for offer in shelf.offers[kind])

    async def _keep(self, shelf: Shelf, source: Source) -> None:
        backoff, nudge = Backoff(0.2, 15.0), self._nudges[shelf.server]
        while True:
            nudge.clear()
            try:
                # First of all: what changes while lists are read is not missed.
                async with source.changes() as changes:
                    await self._fill(shelf, source, KINDS, with_hello=True)
                    self._set_problem(shelf, "")
                    backoff.reset()
                    await self._follow(shelf, source, changes)
            except (MeshError, TimeoutError) as err:
                self._set_problem(shelf, str(err) or f"{shelf.server} has not told what it offers in time.")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(backoff.next()):
                    await nudge.wait()
                    backoff.reset()

    async def _follow(self, shelf: Shelf, source: Source, changes: AsyncIterator[OfferKind]) -> None:
        while True:
            dirty: set[OfferKind] = set()
            try:
                async with asyncio.timeout(_REFRESH_SECONDS):
                    dirty.add(await anext(changes))
            except TimeoutError:
                dirty.update(KINDS)
            except StopAsyncIteration:
                return
            await asyncio.sleep(_CALM_SECONDS)
            await self._fill(shelf, source, tuple(dirty), with_hello=False)

    async def _fill(self, shelf: Shelf, source: Source, kinds: tuple[OfferKind, ...], *, with_hello: bool) -> None:
        async with asyncio.timeout(_FILL_SECONDS):
            if with_hello:
                shelf.hello = await source.hello()
            for kind in kinds:
                if shelf.put(kind, await source.list(kind)):
                    self._tell(shelf.server, kind)
        shelf.is_filled = True
        self._wake()

    def _set_problem(self, shelf: Shelf, problem: str) -> None:
        if shelf.problem != problem:
            if problem:
                _log.warning("server_degraded", server=shelf.server, error=problem)
            elif shelf.problem:
                _log.info("server_well_again", server=shelf.server)
            if bool(shelf.problem) != bool(problem):
                shelf.since = time.time()
                self.version += 1
            shelf.problem = problem
        self._wake()

    def _tell(self, server: str, kind: OfferKind) -> None:
        self.version += 1
        self._names = self._prompt_names = None
        for queue in self._listeners:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(Changed(server, kind))

    def _wake(self) -> None:
        self._looked.set()
        self._looked = asyncio.Event()


@asynccontextmanager
async def open_shelves(make_source: MakeSource) -> AsyncIterator[Shelves]:
    """Keep shelves while the block runs."""
    shelves = Shelves(make_source)
    try:
        yield shelves
    finally:
        await shelves.close()


def unavailable(shelf: Shelf) -> Unavailable:
    """For calls of a server that is known to be away: they fail at once."""
    return Unavailable(
        f"{shelf.server} is not available: {shelf.problem}",
        service=shelf.server,
        fix="Others work; try it again later.",
    )
