import asyncio
from collections.abc import Callable

import pytest

from mesh.discovery import HealthCheck, open_registration, registration
from mesh.errors import MeshError, PermissionDenied, Unavailable
from mesh.model import Address, Instance

INSTANCE = Instance("financial", "financial-1", "127.0.0.1", 1)
CHECK = HealthCheck(Address("127.0.0.1", 1), use_tls=False)


class FakeRegistry:
    """Keeps instances in a dict and fails on demand."""

    def __init__(self) -> None:
        self.instances: dict[str, Instance] = {}
        self.failure: MeshError | None = None
        self.calls = 0
        self.changed = asyncio.Event()

    def _note(self) -> None:
        self.calls += 1
        self.changed.set()
        if self.failure:
            raise self.failure

    async def register(self, instance: Instance, check: HealthCheck) -> None:
        self._note()
        self.instances[instance.id] = instance

    async def deregister(self, instance_id: str) -> None:
        self._note()
        self.instances.pop(instance_id, None)

    async def renew(self, instance_id: str) -> bool:
        self._note()
        return instance_id in self.instances

    async def until(self, claim: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not claim():
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(registration, "POLL", 0.01)
    monkeypatch.setattr(registration, "FIRST_RETRY", 0.01)
    monkeypatch.setattr(registration, "LONGEST_RETRY", 0.02)


async def test_what_was_lost_is_registered_again():
    registry = FakeRegistry()
    async with open_registration(registry, INSTANCE, CHECK):
        registry.instances.clear()
        await registry.until(lambda: bool(registry.instances))


async def test_a_registry_that_comes_late_gets_the_instance():
    registry = FakeRegistry()
    registry.failure = Unavailable("away")
    async with open_registration(registry, INSTANCE, CHECK) as kept:
        await registry.until(lambda: registry.calls > 3)
        assert not kept.is_registered
        registry.failure = None
        await registry.until(lambda: bool(registry.instances))


async def test_a_refusal_at_the_start_is_raised_as_itself():
    registry = FakeRegistry()
    registry.failure = PermissionDenied("no")
    with pytest.raises(PermissionDenied):
        async with open_registration(registry, INSTANCE, CHECK):
            pytest.fail("It must not get here.")


async def test_a_refusal_later_is_tried_again_and_does_not_end_the_block():
    registry = FakeRegistry()
    async with open_registration(registry, INSTANCE, CHECK):
        registry.failure = PermissionDenied("no")
        before = registry.calls
        await registry.until(lambda: registry.calls > before + 3)


async def test_an_error_of_the_block_leaves_as_itself_and_the_instance_is_removed():
    registry = FakeRegistry()
    with pytest.raises(ZeroDivisionError):
        async with open_registration(registry, INSTANCE, CHECK):
            raise ZeroDivisionError
    assert registry.instances == {}


async def test_an_end_without_registry_is_no_error():
    registry = FakeRegistry()
    async with open_registration(registry, INSTANCE, CHECK):
        registry.failure = Unavailable("away")


async def test_an_end_with_a_registry_that_hangs_is_bounded(monkeypatch):
    monkeypatch.setattr(registration, "DEREGISTER_TIMEOUT", 0.05)
    registry = FakeRegistry()

    async def hang(instance_id: str) -> None:
        await asyncio.Event().wait()

    async with asyncio.timeout(5):
        async with open_registration(registry, INSTANCE, CHECK):
            monkeypatch.setattr(registry, "deregister", hang)


async def test_an_update_replaces_the_instance_and_keeps_its_id():
    registry = FakeRegistry()
    newer = Instance("financial", "financial-1", "127.0.0.1", 1, version="2")
    async with open_registration(registry, INSTANCE, CHECK) as kept:
        await kept.update(newer)
        assert registry.instances["financial-1"] is newer
        with pytest.raises(ValueError, match="service and id"):
            await kept.update(Instance("financial", "other", "127.0.0.1", 1))


async def test_an_update_that_fails_is_made_up_for():
    registry = FakeRegistry()
    newer = Instance("financial", "financial-1", "127.0.0.1", 1, version="2")
    async with open_registration(registry, INSTANCE, CHECK) as kept:
        registry.failure = Unavailable("away")
        with pytest.raises(Unavailable):
            await kept.update(newer)
        registry.failure = None
        await registry.until(lambda: registry.instances["financial-1"] is newer)
