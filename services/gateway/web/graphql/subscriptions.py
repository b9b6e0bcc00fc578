"""What changes, as it changes. Latest wins: a slow reader misses what lies between, apart from updates of tasks.

Each of them ends, or fails, when its caller may have it no more, see streams.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import TypeVar

import grpc
import strawberry
from strawberry.scalars import JSON

from agentmesh.agent.v1 import agent_service_pb2
from agentmesh.control.v1 import control_pb2
from mesh.access import Target
from mesh.errors import InvalidInput, Unavailable
from mesh.runtime import Backoff
from services.gateway.web.events import Event, Sight, Wanted
from services.gateway.web.events.filters import parse_wanted
from services.gateway.web.graphql.members import error_of
from services.gateway.web.graphql.queries import find_agent
from services.gateway.web.graphql.reader import AGENT, DOOR, REVISIONS, Reader
from services.gateway.web.graphql.types import Context, Revision, Service, TaskUpdate

_TRIES = 5
"""How often in a row an agent is asked again that has gone away."""

T = TypeVar("T")


@strawberry.type(description="Something that has happened.")
class MeshEvent:
    """As on /events."""

    id: str
    type: str
    time: str
    subject: str = strawberry.field(description="The service that it is about; empty for none.")
    data: JSON


@strawberry.type(description="What changes, as far as you may see it.")
class Subscription:
    """All begin with what is there, `events` apart."""

    @strawberry.subscription(description="All services, or those of one kind: at once, and after every change.")
    async def services(self, info: Context, kind: str | None = None) -> AsyncIterator[list[Service]]:
        reader = info.context
        async for found in _follow(reader, _services(reader, kind or ""), DOOR):
            yield [Service(_told=it) for it in found]

    @strawberry.subscription(description="The newest revision of the mesh document: at once, and every new one.")
    async def revision(self, info: Context) -> AsyncIterator[Revision]:
        reader = info.context
        async for _ in _follow(reader, _revisions(reader), REVISIONS):
            newest = await reader.revisions(1)
            if newest:
                yield Revision.of(newest[0])

    @strawberry.subscription(
        description="Updates of a task, without gaps, behind the one numbered `after`; to its end."
    )
    async def task_updates(self, info: Context, agent: str, task: str, after: int = 0) -> AsyncIterator[TaskUpdate]:
        reader = info.context
        find_agent(reader, agent)
        if after < 0:
            raise InvalidInput("Updates are numbered from 1.", field="after", fix="Leave it out for all.")
        async for update in _follow(reader, _updates(reader, agent, task, after), Target(agent, f"{AGENT}/WatchTask")):
            yield update

    @strawberry.subscription(description="What happens: all types, or those given; of all services, or those given.")
    async def events(
        self, info: Context, types: list[str] | None = None, services: list[str] | None = None
    ) -> AsyncIterator[MeshEvent]:
        reader = info.context
        async for it in _follow(reader, _events(reader, parse_wanted(types or [], services or [])), DOOR):
            yield MeshEvent(id=it.id, type=it.type, time=it.time, subject=it.subject, data=JSON(dict(it.data)))


async def _follow(reader: Reader, source: AsyncGenerator[T, None], target: Target) -> AsyncIterator[T]:
    """Each item of a source while the caller may call the target, and whatever else the item leads to read anew."""
    async with aclosing(reader.sources.streams.follow(source, reader.owner, lambda: reader.viewer.check(target))) as it:
        async for item in it:
            reader.begin_anew()
            yield item


async def _services(reader: Reader, kind: str) -> AsyncGenerator[list[control_pb2.Service], None]:
    told: list[control_pb2.Service] | None = None
    async for _ in reader.sources.knowledge.watch():
        found = reader.viewer.services(kind)
        if found != told:
            told = found
            yield found


async def _revisions(reader: Reader) -> AsyncGenerator[int, None]:
    """Something that is another one whenever the document in force is another one."""
    told: tuple[int, str] | None = None
    async for _ in reader.sources.knowledge.watch():
        mesh = reader.sources.knowledge.mesh
        if (mesh.revision, mesh.document_version) != told:
            told = (mesh.revision, mesh.document_version)
            yield mesh.revision


async def _updates(reader: Reader, agent: str, task: str, after: int) -> AsyncGenerator[TaskUpdate, None]:
    backoff = Backoff(0.1, 2.0)
    tries = 0
    while True:
        request = agent_service_pb2.WatchTaskRequest(task_id=task, after_sequence=after)
        try:
            async with reader.sources.members.watch_task(agent, request, reader.token()) as responses:
                async for response in responses:
                    after, tries = response.update.sequence, 0
                    backoff.reset()
                    yield TaskUpdate.of(response.update)
            return
        except grpc.aio.AioRpcError as err:
            error = error_of(agent, err)
            tries += 1
            # Unlike an agent that comes back: it has forgotten the task, or refuses.
            if not error.retryable or tries > _TRIES:
                raise error from err
        await asyncio.sleep(backoff.next())


async def _events(reader: Reader, wanted: Wanted) -> AsyncGenerator[Event, None]:
    sight = Sight(reader.sources.knowledge, reader.caller, DOOR.method)
    with reader.sources.hub.subscribe(wanted, sight) as subscription:
        while (item := await subscription.next()) is not None:
            if isinstance(item, Event):
                yield item
    if (ending := subscription.ending) is not None:
        raise Unavailable(ending.detail, reason=ending.reason)
