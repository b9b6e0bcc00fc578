"""The types, and how their fields are found."""

from collections.abc import AsyncIterator
from datetime import datetime

import strawberry
from google.protobuf.timestamp_pb2 import Timestamp
from strawberry.scalars import JSON
from strawberry.types import Info

from agentmesh.agent.v1 import agent_pb2
from agentmesh.config.v1 import config_pb2
from agentmesh.control.v1 import control_pb2
from agentmesh.mcp.v1 import mcp_pb2
from mesh.errors import NotFound, Unavailable
from services.gateway.web.events import Event, EventHub, Sight
from services.gateway.web.events.filters import parse_wanted
from services.gateway.web.graphql.pages import Page, take
from services.gateway.web.graphql.reader import Reader, json_of


@strawberry.type(description="One running copy of a service.")
class Instance:
    id: str
    version: str
    protocol: str
    healthy: bool
    health_output: str


@strawberry.type(description="A tool of an MCP server.")
class Tool:
    server: str
    name: str
    title: str
    description: str
    input_schema: JSON | None
    output_schema: JSON | None
    read_only: bool | None
    destructive: bool | None


@strawberry.type(description="Something that an agent can do.")
class Skill:
    id: str
    name: str
    description: str
    tags: list[str]
    input_schema: JSON | None
    output_schema: JSON | None


@strawberry.type(description="A piece of work that an agent has accepted.")
class Task:
    agent: str
    id: str
    context_id: str
    skill: str
    state: str
    progress: float
    message: str
    create_time: datetime | None
    update_time: datetime | None


@strawberry.type(description="A service of the mesh.")
class Service:
    name: str
    kind: str
    instances: list[Instance]
    upstreams: list[str]

    @strawberry.field(description="Names of its skills or tools, as its instances have registered them.")
    def capabilities(self) -> list[str]:
        return sorted(set(self._capabilities))

    @strawberry.field(description="Its tools, when it is an MCP server.")
    async def tools(self, info: Info, first: int = 50, after: str | None = None) -> Page[Tool]:
        return await _tools(_reader(info), self.name if self.kind == "mcp" else "", first, after)

    @strawberry.field(description="Its skills, when it is an agent.")
    async def skills(self, info: Info) -> list[Skill]:
        return await _skills(_reader(info), self.name) if self.kind == "agent" else []

    @strawberry.field(description="Its newest tasks, when it is an agent.")
    async def tasks(self, info: Info, first: int = 50) -> list[Task]:
        return await _tasks(_reader(info), self.name, first) if self.kind == "agent" else []

    _capabilities: strawberry.Private[tuple[str, ...]] = ()


@strawberry.type(description="A revision of the mesh document.")
class Revision:
    number: int
    author: str
    message: str
    status: str
    cause: str
    create_time: datetime | None


@strawberry.type(description="Something that has happened.")
class MeshEvent:
    id: str
    type: str
    time: str
    subject: str
    data: JSON


@strawberry.type
class Query:
    @strawberry.field(description="The services that one may see, sorted by name.")
    def services(self, info: Info, kind: str | None = None, first: int = 50, after: str | None = None) -> Page[Service]:
        found = [_service(each) for each in _reader(info).services(kind)]
        return take(found, first, after, lambda service: service.name)

    @strawberry.field(description="One service.")
    def service(self, info: Info, name: str) -> Service:
        for each in _reader(info).services():
            if each.name == name:
                return _service(each)
        raise NotFound(f"There is no service {name[:80]!r} that you may see.", reason="UNKNOWN_SERVICE", field="name")

    @strawberry.field(description="The agents that one may see, sorted by name.")
    def agents(self, info: Info, first: int = 50, after: str | None = None) -> Page[Service]:
        found = [_service(each) for each in _reader(info).services("agent")]
        return take(found, first, after, lambda service: service.name)

    @strawberry.field(description="The tools of one MCP server.")
    async def tools(self, info: Info, server: str, first: int = 50, after: str | None = None) -> Page[Tool]:
        return await _tools(_reader(info), server, first, after)

    @strawberry.field(description="The newest tasks of one agent.")
    async def tasks(self, info: Info, agent: str, first: int = 50) -> list[Task]:
        return await _tasks(_reader(info), agent, first)

    @strawberry.field(description="The revisions of the mesh document, newest first.")
    async def revisions(self, info: Info, first: int = 20, before: int = 0) -> list[Revision]:
        take([], first, None, str)
        return [_revision(each) for each in await _reader(info).revisions(first, before)]


@strawberry.type
class Subscription:
    @strawberry.subscription(description="What happens: all types, or those given; of all services, or those given.")
    async def events(
        self, info: Info, types: list[str] | None = None, services: list[str] | None = None
    ) -> AsyncIterator[MeshEvent]:
        reader, hub = _reader(info), _hub(info)
        sight = Sight(reader.knowledge, reader.caller, "/graphql")
        with hub.subscribe(parse_wanted(types or [], services or []), sight) as subscription:
            while (item := await subscription.next()) is not None:
                if isinstance(item, Event):
                    yield MeshEvent(
                        id=item.id, type=item.type, time=item.time, subject=item.subject, data=JSON(dict(item.data))
                    )
        ending = subscription.ending
        if ending is not None:
            raise Unavailable(ending.detail, reason=ending.reason)


def _reader(info: Info) -> Reader:
    reader: Reader = info.context["reader"]
    return reader


def _hub(info: Info) -> EventHub:
    hub: EventHub = info.context["hub"]
    return hub


def _service(service: control_pb2.Service) -> Service:
    return Service(
        name=service.name,
        kind=service.kind,
        instances=[_instance(it) for it in service.instances],
        upstreams=list(service.upstreams),
        _capabilities=tuple(name for it in service.instances for name in it.capabilities),
    )


def _instance(instance: control_pb2.Instance) -> Instance:
    return Instance(
        id=instance.id,
        version=instance.version,
        protocol=instance.protocol,
        healthy=instance.healthy,
        health_output=instance.health_output,
    )


async def _tools(reader: Reader, server: str, first: int, after: str | None) -> Page[Tool]:
    found = [_tool(server, tool) for tool in await reader.tools(server)] if server else []
    found.sort(key=lambda tool: tool.name)
    return take(found, first, after, lambda tool: tool.name)


def _tool(server: str, tool: mcp_pb2.Tool) -> Tool:
    hints = tool.annotations
    return Tool(
        server=server,
        name=tool.name,
        title=tool.title or hints.title,
        description=tool.description,
        input_schema=json_of(tool.input_schema),
        output_schema=json_of(tool.output_schema),
        read_only=hints.read_only_hint if hints.HasField("read_only_hint") else None,
        destructive=hints.destructive_hint if hints.HasField("destructive_hint") else None,
    )


async def _skills(reader: Reader, agent: str) -> list[Skill]:
    card = await reader.card(agent)
    return [
        Skill(
            id=it.id,
            name=it.name,
            description=it.description,
            tags=list(it.tags),
            input_schema=json_of(it.input_schema),
            output_schema=json_of(it.output_schema),
        )
        for it in card.skills
    ]


def _skill(skill: agent_pb2.Skill) -> Skill:
    return Skill(
        id=skill.id,
        name=skill.name,
        description=skill.description,
        tags=list(skill.tags),
        input_schema=json_of(skill.input_schema),
        output_schema=json_of(skill.output_schema),
    )


async def _tasks(reader: Reader, agent: str, first: int) -> list[Task]:
    take([], first, None, str)
    return [_task(agent, task) for task in await reader.tasks(agent, first)]


def _task(agent: str, task: agent_pb2.Task) -> Task:
    return Task(
        agent=agent,
        id=task.id,
        context_id=task.context_id,
        skill=task.skill_id,
        state=agent_pb2.TaskState.Name(task.state).removeprefix("TASK_STATE_").lower(),
        progress=task.progress,
        message=task.status_message,
        create_time=_moment(task.create_time),
        update_time=_moment(task.update_time),
    )


def _revision(revision: config_pb2.Revision) -> Revision:
    return Revision(
        number=revision.number,
        author=revision.author,
        message=revision.message,
        status=config_pb2.RevisionStatus.Name(revision.status).removeprefix("REVISION_STATUS_").lower(),
        cause=revision.cause,
        create_time=_moment(revision.create_time),
    )


def _moment(stamp: Timestamp) -> datetime | None:
    return stamp.ToDatetime() if stamp.ByteSize() else None
