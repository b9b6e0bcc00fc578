"""The registry follower: what is believed, and when."""

import asyncio

from mesh.discovery import RegistrySnapshot
from mesh.model import Instance
from mesh.state import MeshState, StateStore
from services.control_plane.registry_follower import SETTLE_SECONDS, RegistryFollower, settle


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class NoRegistry:
    async def watch(self):
        if False:
            yield


def instance(id_: str, *, is_healthy: bool = True) -> Instance:
    return Instance(service="a", id=id_, address="127.0.0.1", port=1, is_healthy=is_healthy)


def follower() -> tuple[RegistryFollower, StateStore, Clock]:
    store, clock = StateStore(MeshState("t")), Clock()
    return RegistryFollower(NoRegistry(), store, clock=clock), store, clock


def answer(*instances: Instance) -> RegistrySnapshot:
    return RegistrySnapshot(services={"a": instances}, is_available=True, error="")


def silence(*instances: Instance) -> RegistrySnapshot:
    return RegistrySnapshot(services={"a": instances}, is_available=False, error="connection refused")


async def test_first_answer_is_believed_and_announced() -> None:
    it, store, _ = follower()
    assert not it.first_snapshot.is_set()
    it.take(answer(instance("a-1", is_healthy=False)))
    assert it.first_snapshot.is_set()
    assert not store.current.services["a"][0].is_healthy


async def test_silence_keeps_the_last_known_instances() -> None:
    it, store, _ = follower()
    it.take(answer(instance("a-1")))
    it.take(silence())
    assert [i.id for i in store.current.services["a"]] == ["a-1"]
    assert not it.status.is_available
    assert it.status.error == "connection refused"


async def test_after_an_absence_healthy_instances_outlive_a_blank_answer_until_settled() -> None:
    it, store, clock = follower()
    it.take(answer(instance("a-1"), instance("a-2")))
    it.take(silence())
    it.take(answer(instance("a-1", is_healthy=False)))
    assert [(i.id, i.is_healthy) for i in store.current.services["a"]] == [("a-1", True), ("a-2", True)]
    clock.now += SETTLE_SECONDS
    it.apply()
    assert [(i.id, i.is_healthy) for i in store.current.services["a"]] == [("a-1", False)]


async def test_without_an_absence_a_failing_check_is_believed_at_once() -> None:
    it, store, _ = follower()
    it.take(answer(instance("a-1")))
    it.take(answer(instance("a-1", is_healthy=False)))
    assert not store.current.services["a"][0].is_healthy


async def test_follow_ends_the_settling_by_itself(monkeypatch) -> None:
    monkeypatch.setattr("services.control_plane.registry_follower.SETTLE_SECONDS", 0.01)
    snapshots = [answer(instance("a-1")), silence(), answer()]

    class Registry:
        async def watch(self):
            for snapshot in snapshots:
                yield snapshot
            await asyncio.Event().wait()

    store = StateStore(MeshState("t"))
    task = asyncio.ensure_future(RegistryFollower(Registry(), store).follow())
    async with asyncio.timeout(5):
        async for state in store.watch():
            if "a" in state.services and not state.services["a"]:
                break
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_settle_takes_new_addresses_of_healthy_instances() -> None:
    before = {"a": (instance("a-1"),)}
    moved = Instance(service="a", id="a-1", address="127.0.0.1", port=2)
    assert settle(before, {"a": (moved,)})["a"] == (moved,)


async def test_a_registry_that_goes_again_while_it_settles_changes_nothing(monkeypatch) -> None:
    monkeypatch.setattr("services.control_plane.registry_follower.SETTLE_SECONDS", 0.01)
    gone = asyncio.Event()

    class Registry:
        async def watch(self):
            for snapshot in (answer(instance("a-1")), silence(), answer(), silence()):
                yield snapshot
            gone.set()
            await asyncio.Event().wait()

    slept = asyncio.Event()

    async def sleep(seconds: float) -> None:
        await gone.wait()
        slept.set()

    store = StateStore(MeshState("t"))
    monkeypatch.setattr("services.control_plane.registry_follower.asyncio.sleep", sleep)
    task = asyncio.ensure_future(RegistryFollower(Registry(), store).follow())
    async with asyncio.timeout(5):
        await slept.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert [i.id for i in store.current.services["a"]] == ["a-1"]


async def test_what_comes_back_a_second_time_settles_anew() -> None:
    it, store, clock = follower()
    it.take(answer(instance("a-1")))
    it.take(silence())
    it.take(answer())
    it.take(silence())
    clock.now += SETTLE_SECONDS
    it.take(answer())
    assert [i.id for i in store.current.services["a"]] == ["a-1"]
    clock.now += SETTLE_SECONDS
    it.apply()
    assert store.current.services["a"] == ()
