import asyncio
from contextlib import asynccontextmanager

import pytest

from mesh.discovery.embedded import checker


class Registry:
    """Gives records that it is told, and notes what is found."""

    def __init__(self, *records):
        self.newest = records
        self.changed = asyncio.Event()
        self.found = []
        self.noted = asyncio.Event()

    async def watch_records(self):
        while True:
            self.changed.clear()
            yield self.newest
            await self.changed.wait()

    def set(self, *records):
        self.newest = records
        self.changed.set()

    async def note_check(self, instance_id, target, *, is_healthy, output):
        self.found.append((instance_id, is_healthy, output))
        self.noted.set()

    async def until(self, claim):
        async with asyncio.timeout(5):
            while not claim():
                self.noted.clear()
                await self.noted.wait()


@asynccontextmanager
async def running(registry, probe, *, random=lambda: 0.0):
    @asynccontextmanager
    async def open_probe(record):
        async def ask():
            return await probe(record)

        yield ask

    task = asyncio.create_task(checker.run_checks(registry, open_probe, random=random))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()


async def well(_):
    return ""


async def test_what_a_check_finds_is_noted(record):
    async def probe(one):
        return "" if one.instance.id == "a-1" else "refused"

    registry = Registry(record("a-1"), record("a-2"))
    async with running(registry, probe):
        await registry.until(lambda: len(registry.found) == 2)
    assert sorted(registry.found) == [("a-1", True, ""), ("a-2", False, "refused")]


async def test_checks_at_the_same_time_are_bounded(record, monkeypatch):
    monkeypatch.setattr(checker, "MOST_AT_ONCE", 3)
    together, most, gate = 0, 0, asyncio.Event()

    async def probe(_):
        nonlocal together, most
        together += 1
        most = max(most, together)
        if together == 3:
            gate.set()
        await gate.wait()
        together -= 1
        return ""

    registry = Registry(*(record(f"a-{number}") for number in range(20)))
    async with running(registry, probe):
        await registry.until(lambda: len(registry.found) == 20)
    assert most == 3


async def test_a_new_instance_is_not_held_up_by_a_wait_of_its_own(record):
    registry = Registry()
    # The first checks of those that were there at the start spread over the interval; this one is new.
    async with running(registry, well, random=lambda: 1e6):
        await asyncio.sleep(0)
        registry.set(record("a-1"))
        await registry.until(lambda: registry.found == [("a-1", True, "")])


async def test_a_failure_of_which_this_process_was_asleep_is_not_believed(record, monkeypatch):
    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

    clock, asked = Clock(), 0
    monkeypatch.setattr(checker, "time", clock)

    async def probe(one):
        nonlocal asked
        asked += 1
        if asked == 1:
            clock.now += one.check.timeout + 10.0
            return "DEADLINE_EXCEEDED"
        return "refused"

    registry = Registry(record("a-1"))
    async with running(registry, probe):
        await registry.until(lambda: bool(registry.found))
    assert registry.found == [("a-1", False, "refused")]
    assert asked == 2


async def test_a_change_of_facts_does_not_disturb_a_running_check(record):
    opened = []

    async def probe(one):
        opened.append(one.instance.version)
        return ""

    registry = Registry(record("a-1", version="1"))
    async with running(registry, probe):
        await registry.until(lambda: len(registry.found) == 1)
        registry.set(record("a-1", version="2"), record("a-2", version="2"))
        await registry.until(lambda: len(registry.found) == 2)
    assert opened == ["1", "2"]
    assert [found[0] for found in registry.found] == ["a-1", "a-2"]


async def test_a_defect_of_a_probe_ends_the_checks(record):
    async def probe(_):
        raise ZeroDivisionError

    @asynccontextmanager
    async def open_probe(one):
        yield lambda: probe(one)

    with pytest.raises(ExceptionGroup):
        await checker.run_checks(Registry(record("a-1")), open_probe, random=lambda: 0.0)
