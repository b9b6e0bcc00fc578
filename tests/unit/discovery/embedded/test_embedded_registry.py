import asyncio
from contextlib import asynccontextmanager

import pytest

from mesh.discovery.embedded import open_embedded_registry
from mesh.discovery.embedded import registry as module
from mesh.errors import InvalidInput, ResourceExhausted, Unavailable


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Probes:
    """Answers of instances by id; who is asked for the first time is told of."""

    def __init__(self):
        self.answers = {}
        self.opened = []
        self.closed = []

    @asynccontextmanager
    async def open(self, record):
        self.opened.append((record.instance.id, record.check.target.port))

        async def probe():
            return self.answers.get(record.instance.id, "")

        try:
            yield probe
        finally:
            self.closed.append((record.instance.id, record.check.target.port))


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def probes():
    return Probes()


@pytest.fixture
def open_registry(tmp_path, clock, probes, monkeypatch):
    # Swept by the tests themselves.
    monkeypatch.setattr(module.EmbeddedRegistry, "sweep_for_ever", asyncio.Event().wait)
    return lambda: open_embedded_registry(tmp_path / "registry.db", open_probe=probes.open, clock=clock)


async def until(registry, fits):
    async with asyncio.timeout(5):
        async for snapshot in registry.watch():
            found = {instance.id: instance for instances in snapshot.services.values() for instance in instances}
            if fits(found):
                return found
    raise AssertionError("The watch ended.")


def is_healthy(instance_id):
    return lambda found: instance_id in found and found[instance_id].is_healthy


async def test_a_new_instance_is_checked_at_once(open_registry, record):
    async with open_registry() as registry:
        one = record()
        await registry.register(one.instance, one.check)
        await until(registry, is_healthy("a-1"))


async def test_instances_and_their_health_outlive_the_process(open_registry, record, probes):
    probes.answers["a-2"] = "refused"
    async with open_registry() as registry:
        for one in (record("a-1"), record("a-2"), record("a-3")):
            await registry.register(one.instance, one.check)
        await until(registry, lambda found: all(not it.health_output.startswith("It has") for it in found.values()))
        await registry.deregister("a-3")
    probes.answers["a-1"] = "away for now"
    async with open_registry() as registry:
        found = await until(registry, lambda found: True)
        assert {key: instance.is_healthy for key, instance in found.items()} == {"a-1": True, "a-2": False}


async def test_a_restart_gives_every_launcher_time_to_come_back(open_registry, record, clock):
    async with open_registry() as registry:
        await registry.register(record().instance, record().check, lease=2.0)
        await until(registry, is_healthy("a-1"))
    clock.now += 3600.0
    async with open_registry() as registry:
        clock.now += module.PERIOD
        await registry.sweep()
        assert is_healthy("a-1")(await until(registry, lambda found: True))


async def test_a_lease_ends_and_a_renewal_brings_it_back(open_registry, record, clock):
    async with open_registry() as registry:
        await registry.register(record().instance, record().check)
        await until(registry, is_healthy("a-1"))
        await _advance(registry, clock, 16.0)
        await until(registry, lambda found: not found["a-1"].is_healthy)
        assert await registry.renew("a-1")
        await until(registry, is_healthy("a-1"))


async def _advance(registry, clock, seconds):
    end = clock.now + seconds
    while clock.now < end:
        clock.now += module.PERIOD
        await registry.sweep()


async def test_a_process_that_was_stopped_for_long_ends_no_lease(open_registry, record, clock):
    async with open_registry() as registry:
        await registry.register(record().instance, record().check)
        await until(registry, is_healthy("a-1"))
        clock.now += 3600.0
        await registry.sweep()
        assert is_healthy("a-1")(await until(registry, lambda found: True))
        await _advance(registry, clock, 16.0)
        assert not is_healthy("a-1")(await until(registry, lambda found: True))


async def test_what_is_forgotten_is_forgotten_on_disk_too(open_registry, record, clock, probes):
    probes.answers["a-1"] = "refused"
    async with open_registry() as registry:
        one = record(deregister_after=5.0)
        await registry.register(one.instance, one.check)
        await _advance(registry, clock, 6.0)
        assert not await registry.is_registered("a-1")
        assert not await registry.renew("a-1")
    async with open_registry() as registry:
        assert await until(registry, lambda found: True) == {}


async def test_a_service_has_so_many_instances_and_no_more(open_registry, record, monkeypatch):
    monkeypatch.setattr(module, "MOST_INSTANCES", 2)
    async with open_registry() as registry:
        for key in ("a-1", "a-2", "a-2"):
            await registry.register(record(key).instance, record(key).check)
        with pytest.raises(ResourceExhausted, match="takes no more"):
            await registry.register(record("a-3").instance, record("a-3").check)


async def test_what_cannot_be_is_not_taken(open_registry, record):
    async with open_registry() as registry:
        with pytest.raises(InvalidInput):
            await registry.register(record("no id").instance, record().check)
        assert await until(registry, lambda found: True) == {}


async def test_a_disk_that_refuses_keeps_nobody_out(open_registry, record, monkeypatch):
    async with open_registry() as registry:

        async def refuse(**_):
            raise Unavailable("The disk is full.", reason="REGISTRY_NOT_WRITABLE")

        with monkeypatch.context() as patch:
            patch.setattr(registry._writer, "write", refuse)
            with pytest.raises(Unavailable):
                await registry.register(record().instance, record().check)
            await until(registry, is_healthy("a-1"))
        await registry.register(record().instance, record().check)
    async with open_registry() as registry:
        await until(registry, is_healthy("a-1"))


async def test_checks_follow_instances(open_registry, record, probes):
    async with open_registry() as registry:
        for one in (record("a-1"), record("a-2"), record("a-1", port=1001), record("a-1", port=1001, version="2")):
            await registry.register(one.instance, one.check)
            await until(registry, lambda found, one=one: found[one.instance.id].version == one.instance.version)
            await until(registry, is_healthy(one.instance.id))
        await registry.deregister("a-2")
        async with asyncio.timeout(5):
            while len(probes.closed) < 2:
                await asyncio.sleep(0)
        assert probes.opened == [("a-1", 1000), ("a-2", 1000), ("a-1", 1001)]
        assert probes.closed == [("a-1", 1000), ("a-2", 1000)]
