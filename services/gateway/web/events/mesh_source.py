"""Makes events of what the gateway hears of the mesh."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

from agentmesh.control.v1 import control_pb2
from services.gateway.knowledge import Knowledge, MeshView
from services.gateway.web.events.event import Wanted
from services.gateway.web.events.hub import EventHub
from services.gateway.web.events.subscription import Sees

_AT_ONCE = 64
"""Events after which readers get a chance to read, so that a great change makes nobody slow who is not."""

_Change = tuple[str, str, Mapping[str, Any]]


class MeshSource:
    """Tells a hub, and shows in the hub's snapshots what it has told.

    A snapshot may show already what the next events tell: who takes both comes to the same.
    """

    def __init__(self, knowledge: Knowledge, hub: EventHub) -> None:
        self._knowledge = knowledge
        self._hub = hub
        self._told: MeshView | None = None
        hub.snapshot = self.snapshot

    async def run(self) -> None:
        """Tell the hub what changes, for ever."""
        async for _ in self._knowledge.watch():
            view, before = self._knowledge.mesh, self._told
            if view is before or view == MeshView():
                continue
            self._told = view
            if before is None:
                # What is there at the start is no news.
                self._hub.reset_all()
                continue
            for number, change in enumerate(find_changes(before, view), start=1):
                self._hub.publish(*change)
                if not number % _AT_ONCE:
                    await asyncio.sleep(0)

    def snapshot(self, wanted: Wanted, sight: Sees) -> Mapping[str, Any]:
        """What there is, as far as a reader wants it and may see it."""
        told = self._told or MeshView()
        services = [
            {"name": service.name, **facts_of(service)}
            for service in told.services
            if wanted.has_subject(service.name) and sight.sees_service(service.name)
        ]
        return {"services": services, "revision": told.revision, "version": told.document_version}


async def follow_access(knowledge: Knowledge, hub: EventHub, *, every: float = 5.0) -> None:
    """End the streams of those who may have nothing any more, for ever.

    Looked at when the rules or the credentials change, and each `every` seconds, as keys end by themselves.
    """

    async def on_change() -> None:
        seen = None
        async for _ in knowledge.watch():
            if knowledge.view is not seen:
                seen = knowledge.view
                hub.check_all()

    async def by_clock() -> None:
        while True:
            await asyncio.sleep(every)
            hub.check_all()

    async with asyncio.TaskGroup() as group:
        group.create_task(on_change())
        group.create_task(by_clock())


def find_changes(before: MeshView, after: MeshView) -> Iterator[_Change]:
    """What differs between two moments of the mesh: type, subject and data of each event, services by name."""
    old = {service.name: service for service in before.services}
    new = {service.name: service for service in after.services}
    for name in sorted(new.keys() | old.keys()):
        if name not in old:
            yield "service.added", name, facts_of(new[name])
        elif name not in new:
            yield "service.removed", name, {}
        elif _essence(old[name]) != _essence(new[name]):
            yield "service.changed", name, facts_of(new[name])
    if (before.revision, before.document_version) != (after.revision, after.document_version):
        yield "config.changed", "", {"revision": after.revision, "version": after.document_version}


def facts_of(service: control_pb2.Service) -> dict[str, Any]:
    """What an event says of a service."""
    return {
        "kind": service.kind,
        "instances": len(service.instances),
        "healthy": sum(instance.healthy for instance in service.instances),
    }


def _essence(service: control_pb2.Service) -> tuple[Any, ...]:
    """What is worth an event when it changes; the words of a failing check, for one, are not."""
    instances = [(it.id, it.version, it.healthy, tuple(it.capabilities)) for it in service.instances]
    return service.kind, tuple(service.upstreams), tuple(sorted(instances))
