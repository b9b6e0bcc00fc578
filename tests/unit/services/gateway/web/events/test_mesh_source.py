"""Events out of what the gateway hears of the mesh, and the end of streams that may not go on."""

import asyncio
import contextlib

import pytest

from agentmesh.gateway.v1 import gateway_service_pb2 as pb
from services.gateway.knowledge import Knowledge, MeshView
from services.gateway.web.events import Event, MeshSource, Wanted, follow_access
from services.gateway.web.events.mesh_source import find_changes


@pytest.fixture
async def source(hub):
    knowledge = Knowledge()
    source = MeshSource(knowledge, hub)
    running = asyncio.create_task(source.run())
    yield knowledge
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


def mesh(*services, revision=1):
    return pb.WatchMeshResponse(services=services, revision=revision, document_version=f"v{revision}")


async def read(subscription, count):
    async with asyncio.timeout(5):
        return [await subscription.next() for _ in range(count)]


def test_each_difference_is_one_event_and_what_is_not_worth_one_is_none(service):
    before = MeshView((service("a", "mcp", True), service("b"), service("c", "agent", True)), 1, "v1")
    worded = service("b")
    worded.instances.add(id="b-1", health_output="refused")
    after = MeshView((service("a", "mcp", False), worded, service("d", "agent", True, False)), 2, "v2")
    assert list(find_changes(before, after)) == [
        ("service.changed", "a", {"kind": "mcp", "instances": 1, "healthy": 0}),
        ("service.changed", "b", {"kind": "service", "instances": 1, "healthy": 0}),
        ("service.removed", "c", {}),
        ("service.added", "d", {"kind": "agent", "instances": 2, "healthy": 1}),
        ("config.changed", "", {"revision": 2, "version": "v2"}),
    ]
    worded_otherwise = service("b")
    worded_otherwise.instances.add(id="b-1", health_output="timed out")
    assert list(find_changes(MeshView((worded,), 1, "v"), MeshView((worded_otherwise,), 1, "v"))) == []


async def test_what_is_there_at_the_start_is_no_news_but_in_the_snapshot_of_who_is_there_already(
    hub, source, service, sight
):
    with hub.subscribe(Wanted(), sight(hidden="b")) as reader:
        source.set_mesh(mesh(service("a", "mcp", True), service("b")))
        _, reset, snapshot = await read(reader, 3)
        assert reset.type == "reset"
        assert snapshot.data["data"] == {
            "services": [{"name": "a", "kind": "mcp", "instances": 1, "healthy": 1}],
            "revision": 1,
            "version": "v1",
        }
        source.set_mesh(mesh(service("a", "mcp", True), revision=2))
        (event,) = await read(reader, 1)
        assert (event.type, event.data["revision"]) == ("config.changed", 2)


async def test_a_change_that_is_greater_than_a_queue_drops_nobody_who_reads(hub, source, service, sight):
    source.set_mesh(mesh(service("a")))
    with hub.subscribe(Wanted(), sight()) as reader:
        await read(reader, 3)
        source.set_mesh(mesh(service("a"), *(service(f"s{number:04}") for number in range(2000))))
        added = await read(reader, 2000)
    assert all(isinstance(event, Event) and event.type == "service.added" for event in added)
    assert hub.dropped == 0


async def test_streams_are_looked_at_when_the_rules_change_and_from_time_to_time(hub, access, sight):
    knowledge, looked = Knowledge(), asyncio.Semaphore(0)

    class Looked(sight):
        def check(self):
            looked.release()

    with hub.subscribe(Wanted(), Looked()):
        for every, change in ((3600.0, True), (0.001, False)):
            following = asyncio.create_task(follow_access(knowledge, hub, every=every))
            async with asyncio.timeout(5):
                if change:
                    knowledge.set_access(access())
                await looked.acquire()
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following
