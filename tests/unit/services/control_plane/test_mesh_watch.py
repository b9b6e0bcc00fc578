"""What gateways are told of the mesh, and when."""

import asyncio

import pytest

from mesh.model import Declaration
from mesh.state import MeshState, StateStore
from services.control_plane.mesh_watch import watch_mesh


@pytest.fixture
def store() -> StateStore:
    return StateStore(MeshState("test.local", "default"))


def declare(store: StateStore, *names: str) -> None:
    store.set_declarations({name: Declaration(name, "service", ()) for name in names})


async def next_names(watching):
    async with asyncio.timeout(5):
        return [service.name for service in (await anext(watching)).services]


async def test_all_is_told_at_once_and_after_each_change_with_the_document(store):
    declare(store, "a")
    watching = watch_mesh(store, asyncio.Event(), pause=0.0)
    first = await anext(watching)
    assert [service.name for service in first.services] == ["a"]
    policy = store.current.policy
    assert (first.revision, first.document_version) == (policy.revision, policy.version)
    declare(store, "a", "b")
    assert await next_names(watching) == ["a", "b"]
    await watching.aclose()


async def test_changes_in_close_succession_are_told_once_and_the_newest_counts(store):
    watching = watch_mesh(store, asyncio.Event(), pause=0.01)
    assert await next_names(watching) == []
    for number in range(100):
        declare(store, *(f"s{it}" for it in range(number + 1)))
    assert len(await next_names(watching)) == 100
    declare(store, "last")
    assert await next_names(watching) == ["last"]
    await watching.aclose()


async def test_what_does_not_show_is_not_told(store):
    watching = watch_mesh(store, asyncio.Event(), pause=0.0)
    assert await next_names(watching) == []
    store.set_revoked(frozenset({"x"}))
    upcoming = asyncio.ensure_future(next_names(watching))
    for _ in range(5):
        await asyncio.sleep(0)
    declare(store, "a")
    assert await upcoming == ["a"]
    await watching.aclose()


@pytest.mark.parametrize("pause", [0.0, 3600.0])
async def test_it_ends_at_once_when_the_control_plane_stops(store, pause):
    draining = asyncio.Event()
    watching = watch_mesh(store, draining, pause=pause)
    await anext(watching)
    upcoming = asyncio.ensure_future(anext(watching, None))
    await asyncio.sleep(0)
    draining.set()
    async with asyncio.timeout(5):
        assert await upcoming is None
