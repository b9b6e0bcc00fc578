"""Counts and answers, in this process and in a real Valkey: both do the same."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from mesh.config import MeshSettings
from mesh.errors import Unavailable
from services.gateway.limits import Counter
from services.gateway.storage import Circuit, Storage, open_storage
from services.meshctl.valkey import open_valkey


@pytest.fixture(params=["memory", "valkey"])
async def storage(request: pytest.FixtureRequest, short_dir: Path) -> AsyncIterator[Storage]:
    async with AsyncExitStack() as stack:
        url = "memory://"
        if request.param == "valkey":
            settings = MeshSettings.from_environment({"MESH_STATE_DIR": str(short_dir)})
            url = await stack.enter_async_context(open_valkey(settings))
        yield await stack.enter_async_context(open_storage(url))


async def test_numbers_add_up(storage: Storage) -> None:
    assert [await storage.counts.add("a", 60), await storage.counts.add("a", 60, 5)] == [1, 6]
    assert await storage.counts.add("a", 60, -1) == 5
    assert (await storage.counts.get("a"), await storage.counts.get("b")) == (5, 0)


async def test_numbers_end(storage: Storage) -> None:
    await storage.counts.add("a", 1)
    async with asyncio.timeout(10):
        while await storage.counts.get("a"):
            await asyncio.sleep(0.02)


async def test_answers_are_bytes_as_they_were(storage: Storage) -> None:
    value = bytes(range(256)) * 100
    await storage.answers.put("a", value, 60.0)
    await storage.answers.put("empty", b"", 60.0)
    assert list(await storage.answers.get(["a", "b", "empty"])) == [value, None, b""]


async def test_answers_end(storage: Storage) -> None:
    await storage.answers.put("a", b"x", 0.05)
    async with asyncio.timeout(10):
        while (await storage.answers.get(["a"]))[0] is not None:
            await asyncio.sleep(0.01)


async def test_many_at_once_count_each(storage: Storage) -> None:
    numbers = await asyncio.gather(*(storage.counts.add("a", 60) for _ in range(500)))
    assert sorted(numbers) == list(range(1, 501))


async def test_who_gives_up_leaves_no_answer_for_the_next_one(valkey: Any) -> None:
    async with open_storage(valkey.url) as storage:
        values = {f"key-{number}": f"value-{number}".encode() for number in range(40)}
        for key, value in values.items():
            await storage.answers.put(key, value, 60.0)
        for _ in range(3):
            held = await valkey.stop()
            asked = [asyncio.create_task(storage.answers.get([key])) for key in values]
            await asyncio.wait(asked, timeout=0.05)
            for task in asked:
                task.cancel()
            await asyncio.wait(asked)
            valkey.go_on(held)
            found = await asyncio.gather(*(storage.answers.get([key]) for key in values))
            assert [each[0] for each in found] == list(values.values())


async def test_gateways_share_limits_that_are_counted_in_one_valkey(valkey: Any) -> None:
    async with open_storage(valkey.url) as one, open_storage(valkey.url) as other:
        counters = [Counter(each.counts, Circuit("tests"), clock=lambda: 7200.0) for each in (one, other)]
        taken = [await counter.take("a", 10, 3600) for _ in range(10) for counter in counters]
    assert sum(each.is_allowed for each in taken) == 10


async def counts_again(counter: Counter) -> None:
    """Returns when it counts."""
    async with asyncio.timeout(10):
        while True:
            try:
                assert (await counter.take("a", 1000, 3600)).is_allowed
                return
            except Unavailable:
                await asyncio.sleep(0.02)


async def test_a_counter_goes_on_when_its_valkey_was_killed_and_is_back(valkey: Any) -> None:
    async with open_storage(valkey.url) as storage:
        counter = Counter(storage.counts, Circuit("tests"))
        await counter.take("a", 1000, 3600)
        await valkey.kill()
        await counts_again(counter)


async def test_a_counter_whose_valkey_hangs_says_so_and_goes_on_after_that(valkey: Any) -> None:
    async with open_storage(valkey.url) as storage:
        counter = Counter(storage.counts, Circuit("tests"))
        await counter.take("a", 1000, 3600)
        held = await valkey.stop()
        for _ in range(20):
            with pytest.raises(Unavailable):
                await counter.take("a", 1000, 3600)
        valkey.go_on(held)
        await counts_again(counter)


async def test_no_call_waits_for_a_valkey_that_is_not_there(short_dir: Any) -> None:
    async with open_storage(f"unix://{short_dir}/nobody.sock") as storage:
        counter = Counter(storage.counts, Circuit("tests"))
        async with asyncio.timeout(2):
            for _ in range(500):
                with pytest.raises(Unavailable):
                    await counter.take("a", 10, 60)
