import asyncio

from mesh.model import Declaration, Instance
from mesh.state import MeshState, StateStore


def services(port: int) -> dict[str, tuple[Instance, ...]]:
    return {"financial": (Instance("financial", "financial-1", "127.0.0.1", port),)}


async def test_a_watch_gives_the_state_at_once_and_each_change():
    store = StateStore(MeshState("mesh.test"))
    async with asyncio.timeout(5):
        watch = store.watch()
        assert (await anext(watch)).services == {}
        waiting = asyncio.create_task(anext(watch))
        store.set_services(services(1))
        assert (await waiting).services == services(1)


async def test_a_slow_reader_gets_only_the_newest_state():
    store = StateStore(MeshState("mesh.test"))
    async with asyncio.timeout(5):
        watch = store.watch()
        await anext(watch)
        for port in range(1, 10):
            store.set_services(services(port))
        assert (await anext(watch)).services == services(9)


async def test_equal_content_wakes_nobody():
    store = StateStore(MeshState("mesh.test"))
    store.set_services(services(1))
    watch = store.watch()
    first = await anext(watch)
    store.set_services(services(1))
    store.set_declarations({})
    assert store.current is first


async def test_declarations_and_services_do_not_overwrite_each_other():
    store = StateStore(MeshState("mesh.test"))
    store.set_services(services(1))
    store.set_declarations({"financial": Declaration("financial", "mcp")})
    assert store.current.services == services(1)
    assert store.current.declarations["financial"].kind == "mcp"


async def test_every_watch_sees_a_change():
    store = StateStore(MeshState("mesh.test"))
    watches = [store.watch() for _ in range(3)]
    async with asyncio.timeout(5):
        for watch in watches:
            await anext(watch)
        store.set_services(services(7))
        assert [(await anext(watch)).services for watch in watches] == [services(7)] * 3
