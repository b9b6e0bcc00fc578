"""Work for which several wait is done once."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from services.gateway.cache import open_flights


async def test_who_joins_gets_the_same_outcome() -> None:
    started, gate = 0, asyncio.Event()

    async def work(give: Callable[[Any], None]) -> None:
        nonlocal started
        started += 1
        await gate.wait()
        give("outcome")

    async with open_flights() as flights:
        first = asyncio.create_task(flights.join(b"a", work))
        second = asyncio.create_task(flights.join(b"a", work))
        await asyncio.sleep(0)
        gate.set()
        assert [await first, await second] == [("outcome", False), ("outcome", True)]
    assert started == 1


async def test_what_is_done_afterwards_is_not_given_up_with_the_last_who_waits() -> None:
    gate, is_done = asyncio.Event(), asyncio.Event()

    async def work(give: Callable[[Any], None]) -> None:
        give("outcome")
        await gate.wait()
        is_done.set()

    async with open_flights() as flights:
        assert await flights.join(b"a", work) == ("outcome", False)
        assert await flights.join(b"a", work) == ("outcome", True)
        gate.set()
        async with asyncio.timeout(5):
            await is_done.wait()


async def test_a_key_whose_work_was_given_up_begins_anew() -> None:
    gate = asyncio.Event()

    async def work(give: Callable[[Any], None]) -> None:
        await gate.wait()
        give("outcome")

    async with open_flights() as flights:
        alone = asyncio.create_task(flights.join(b"a", work))
        await asyncio.sleep(0)
        alone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await alone
        gate.set()
        assert await flights.join(b"a", work) == ("outcome", False)


async def test_a_defect_of_a_work_ends_the_block() -> None:
    async def work(give: Callable[[Any], None]) -> None:
        raise LookupError("a defect")

    with pytest.raises(ExceptionGroup) as raised:
        async with open_flights() as flights:
            await flights.join(b"a", work)
    assert raised.group_contains(LookupError, match="a defect")


async def test_what_runs_is_given_up_at_the_end() -> None:
    given_up = asyncio.Event()

    async def work(give: Callable[[Any], None]) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()

    async with open_flights() as flights:
        waiting = asyncio.create_task(flights.join(b"a", work))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert given_up.is_set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
