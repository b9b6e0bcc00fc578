"""Work for which several wait is done once.

The work belongs to nobody who waits: it goes on while at least one of them does, whoever began it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from mesh.runtime import open_background

Work = Callable[[Callable[[Any], None]], Coroutine[Any, Any, None]]
"""Gets a function to which it gives the outcome; it may go on after that, with what nobody has to wait for."""


@dataclass(slots=True, eq=False)
class _Flight:
    outcome: asyncio.Future[Any]
    task: asyncio.Task[None] | None = None
    waiting: int = 0


class Flights:
    """Flights by key. Made by `open_flights`."""

    def __init__(self) -> None:
        self._group: asyncio.TaskGroup | None = None
        self._ready = asyncio.Event()
        self._flights: dict[bytes, _Flight] = {}

    async def join(self, key: bytes, work: Work) -> tuple[Any, bool]:
        """The outcome of the work of that key, which is begun unless it runs, and whether it ran already."""
        flight = self._flights.get(key)
        has_run = flight is not None
        if flight is None:
            flight = self._begin(key, work)
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.outcome), has_run
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.outcome.done() and flight.task is not None:
                self._forget(key, flight)
                flight.task.cancel()

    def _begin(self, key: bytes, work: Work) -> _Flight:
        assert self._group is not None, "open_flights has been left"
        outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        flight = self._flights[key] = _Flight(outcome)
        flight.task = self._group.create_task(self._run(key, flight, work))
        return flight

    async def _run(self, key: bytes, flight: _Flight, work: Work) -> None:
        try:
            await work(flight.outcome.set_result)
        finally:
            self._forget(key, flight)
            # Only when the work is given up or has a defect.
            flight.outcome.cancel()

    def _forget(self, key: bytes, flight: _Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]

    async def _keep(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            self._ready.set()
            await asyncio.get_running_loop().create_future()


@asynccontextmanager
async def open_flights() -> AsyncIterator[Flights]:
    """Flights that are given up when the block ends. Defects of works end the block, in a group."""
    flights = Flights()
    async with open_background(flights._keep()):
        await flights._ready.wait()
        yield flights
