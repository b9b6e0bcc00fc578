"""A storage that does not answer is left alone for a while."""

import asyncio
from typing import Any

import pytest

from mesh.errors import Unavailable
from services.gateway.storage import Circuit


class Store:
    def __init__(self) -> None:
        self.asked = 0
        self.fails = False
        self.hangs = False

    async def __call__(self) -> str:
        self.asked += 1
        if self.fails:
            raise Unavailable("not there")
        if self.hangs:
            await asyncio.Event().wait()
        return "answer"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def circuit(clock: Clock) -> Circuit:
    return Circuit("tests", clock=clock)


async def fails(circuit: Circuit, store: Store) -> None:
    with pytest.raises(Unavailable):
        await circuit.ask(store)


async def test_an_answer_is_passed_on(circuit: Circuit) -> None:
    assert await circuit.ask(Store()) == "answer"
    assert not circuit.is_open


async def test_after_an_error_nobody_asks_until_the_pause_is_over(circuit: Circuit, clock: Clock) -> None:
    store = Store()
    store.fails = True
    await fails(circuit, store)
    assert circuit.is_open
    for _ in range(10):
        await fails(circuit, store)
    assert store.asked == 1
    clock.now = 1.0
    store.fails = False
    assert await circuit.ask(store) == "answer"
    assert await circuit.ask(store) == "answer"


async def test_a_single_late_answer_does_not_open_it(circuit: Circuit) -> None:
    store = Store()
    for _ in range(5):
        store.hangs = True
        await fails(circuit, store)
        await fails(circuit, store)
        assert not circuit.is_open
        store.hangs = False
        assert await circuit.ask(store) == "answer"


async def test_several_late_answers_in_a_row_open_it(circuit: Circuit) -> None:
    store = Store()
    store.hangs = True
    for _ in range(3):
        await fails(circuit, store)
    assert circuit.is_open


async def test_after_the_pause_one_asks_and_the_others_do_not_wait_for_it(circuit: Circuit, clock: Clock) -> None:
    store = Store()
    store.fails = True
    await fails(circuit, store)
    clock.now = 1.0
    store.fails, store.hangs = False, True
    results: list[Any] = await asyncio.gather(*(circuit.ask(store) for _ in range(20)), return_exceptions=True)
    assert all(isinstance(each, Unavailable) for each in results)
    assert store.asked == 2


async def test_a_question_that_is_given_up_lets_another_one_ask(circuit: Circuit, clock: Clock) -> None:
    store = Store()
    store.fails = True
    await fails(circuit, store)
    clock.now = 1.0
    store.fails, store.hangs = False, True
    probing = asyncio.create_task(circuit.ask(store))
    while store.asked < 2:
        await asyncio.sleep(0)
    probing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probing
    store.hangs = False
    assert await circuit.ask(store) == "answer"
    assert not circuit.is_open


async def test_a_timeout_of_the_callers_own_is_not_the_storages(circuit: Circuit) -> None:
    store = Store()
    store.hangs = True
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await circuit.ask(store)
    assert not circuit.is_open
