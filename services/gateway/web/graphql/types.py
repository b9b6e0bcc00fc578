"""The types, and how they come out of messages of gRPC."""

from datetime import UTC, datetime
from enum import Enum
from typing import Annotated

import strawberry
from google.protobuf.timestamp_pb2 import Timestamp
from strawberry.scalars import JSON
from strawberry.types import Info

from agentmesh.agent.v1 import agent_pb2, agent_service_pb2
from agentmesh.config.v1 import config_pb2
from agentmesh.control.v1 import control_pb2
from agentmesh.error.v1 import error_pb2
from agentmesh.mcp.v1 import mcp_pb2
from services.gateway.web.graphql.limits import PAGE
from services.gateway.web.graphql.pages import Connection, PageInfo, check_first, take
from services.gateway.web.graphql.reader import Reader, json_of

First = Annotated[int, strawberry.argument(description="How many items, 1 to 100.")]
After = Annotated[str | None, strawberry.argument(description="The endCursor of the page before.")]
Context = Info[Reader, None]


@strawberry.enum(description="Where a task stands.")
class TaskState(Enum):
    """As in agentmesh.agent.v1.TaskState; the values are the same."""

    SUBMITTED = agent_pb2.TASK_STATE_SUBMITTED
    WORKING = agent_pb2.TASK_STATE_WORKING
    COMPLETED = agent_pb2.TASK_STATE_COMPLETED
    FAILED = agent_pb2.TASK_STATE_FAILED
    CANCELED = agent_pb2.TASK_STATE_CANCELED


@strawberry.enum(description="How a revision is.")
class RevisionStatus(Enum):
    """As in agentmesh.config.v1.RevisionStatus; the values are the same."""

    STAGED = config_pb2.REVISION_STATUS_STAGED
    ACTIVE = config_pb2.REVISION_STATUS_ACTIVE
    SUPERSEDED = config_pb2.REVISION_STATUS_SUPERSEDED
    ROLLED_BACK = config_pb2.REVISION_STATUS_ROLLED_BACK


@strawberry.type(description="One running copy of a service.")
class Instance:
    """Without its address, which is of use inside of the mesh only."""

    id: str
    version: str
    protocol: str
    healthy: bool
    health_output: str = strawberry.field(description="What the failing health check says.")

    @classmethod
    def of(cls, told: control_pb2.Instance) -> "Instance":
        return cls(
            id=told.id,
            version=told.version,
            protocol=told.protocol,
            healthy=told.healthy,
            health_output=told.health_output,
        )


@strawberry.type(description="A tool of an MCP server.")
class Tool:
    """As ListTools tells it."""

    server: str
    name: str
    title: str
    description: str
    input_schema: JSON | None
    output_schema: JSON | None
    read_only: bool | None
    destructive: bool | None

    @classmethod
    def of(cls, server: str, told: mcp_pb2.Tool) -> "Tool":
        hints = told.annotations
        return cls(
            server=server,
            name=told.name,
            title=told.title or hints.title,
            description=told.description,
            input_schema=json_of(told.input_schema),
            output_schema=json_of(told.output_schema),
            read_only=hints.read_only_hint if hints.HasField("read_only_hint") else None,
            destructive=hints.destructive_hint if hints.HasField("destructive_hint") else None,
        )


@strawberry.type(description="Something that an agent can do.")
class Skill:
    """As the card tells it."""

    id: str
    name: str
    description: str
    tags: list[str]
    input_schema: JSON | None
    output_schema: JSON | None

    @classmethod
    def of(cls, told: agent_pb2.Skill) -> "Skill":
        return cls(
            id=told.id,
            name=told.name,
            description=told.description,
            tags=list(told.tags),
            input_schema=json_of(told.input_schema),
            output_schema=json_of(told.output_schema),
        )


@strawberry.type(description="How an agent describes itself.")
class AgentCard:
    """As GetAgentCard tells it."""

    version: str
    description: str
    max_concurrent_tasks: int
    max_input_bytes: float
    max_task_seconds: float
    _skills: strawberry.Private[tuple[agent_pb2.Skill, ...]]

    @strawberry.field(description="What it can do, sorted by id; with `tag` those that have it.")
    def skills(self, tag: str | None = None) -> list[Skill]:
        return [Skill.of(it) for it in self._skills if tag is None or tag in it.tags]

    @classmethod
    def of(cls, told: agent_pb2.AgentCard) -> "AgentCard":
        return cls(
            version=told.version,
            description=told.description,
            max_concurrent_tasks=told.limits.max_concurrent_tasks,
            max_input_bytes=told.limits.max_input_bytes,
            max_task_seconds=told.limits.max_task_duration.ToTimedelta().total_seconds(),
            _skills=tuple(told.skills),
        )


@strawberry.type(description="Why a task failed.")
class TaskError:
    """As the agent says it."""

    reason: str
    summary: str
    field: str
    fix: str

    @classmethod
    def of(cls, told: error_pb2.ErrorDetail) -> "TaskError":
        return cls(reason=told.reason, summary=told.summary, field=told.field, fix=told.fix)


@strawberry.type(description="A piece of work that an agent has accepted; without what went in and what came out.")
class Task:
    """As ListTasks tells it."""

    agent: str
    id: str
    context_id: str
    skill: str
    state: TaskState
    progress: float = strawberry.field(description="0 to 1.")
    message: str
    sequence: int = strawberry.field(description="Number of its newest update.")
    error: TaskError | None
    create_time: datetime | None
    update_time: datetime | None

    @classmethod
    def of(cls, agent: str, told: agent_pb2.Task) -> "Task":
        return cls(
            agent=agent,
            id=told.id,
            context_id=told.context_id,
            skill=told.skill_id,
            state=TaskState(told.state),
            progress=told.progress,
            message=told.status_message,
            sequence=told.sequence,
            error=TaskError.of(told.error) if told.HasField("error") else None,
            create_time=moment_of(told.create_time),
            update_time=moment_of(told.update_time),
        )


@strawberry.type(description="An agent.")
class Agent:
    """A service of kind agent, seen as what it can do."""

    _told: strawberry.Private[control_pb2.Service]

    @strawberry.field(description="Its mesh name.")
    def name(self) -> str:
        return self._told.name

    @strawberry.field(description="The service that it is.")
    def service(self) -> "Service":
        return Service(_told=self._told)

    @strawberry.field(description="How it describes itself; null when it does not answer.")
    async def card(self, info: Context) -> AgentCard | None:
        return AgentCard.of(await info.context.card(self._told))

    @strawberry.field(description="Its tasks, newest first.")
    async def tasks(
        self,
        info: Context,
        first: First = PAGE,
        after: After = None,
        states: list[TaskState] | None = None,
        context_id: str | None = None,
    ) -> Connection[Task] | None:
        check_first(first)
        request = agent_service_pb2.ListTasksRequest(
            page_size=first,
            page_token=after or "",
            context_id=context_id or "",
            states=[state.value for state in states or ()],
        )
        response = await info.context.tasks(self._told.name, request)
        # The cursor is the agent's own.
        cursor = response.next_page_token or None
        return Connection(
            nodes=[Task.of(self._told.name, it) for it in response.tasks],
            page_info=PageInfo(has_next_page=cursor is not None, end_cursor=cursor),
            total_count=None,
        )


@strawberry.type(description="A service of the mesh.")
class Service:
    """Its own facts are at hand, others are asked for."""

    _told: strawberry.Private[control_pb2.Service]

    @strawberry.field(description="Its mesh name.")
    def name(self) -> str:
        return self._told.name

    @strawberry.field(description="agent, mcp, service or gateway.")
    def kind(self) -> str:
        return self._told.kind

    @strawberry.field(description="Its running copies, sorted by id.")
    def instances(self, healthy: bool | None = None) -> list[Instance]:
        return [Instance.of(it) for it in self._told.instances if healthy is None or it.healthy == healthy]

    @strawberry.field(description="Services that it may call, as far as you may see them; * stands for all.")
    def upstreams(self) -> list[str]:
        return list(self._told.upstreams)

    @strawberry.field(description="Names of its skills or tools, as its instances have registered them.")
    def capabilities(self) -> list[str]:
        return sorted({name for it in self._told.instances for name in it.capabilities})

    @strawberry.field(description="Its tools, sorted by name; null when it is no MCP server or does not answer.")
    async def tools(self, info: Context, first: First = PAGE, after: After = None) -> Connection[Tool] | None:
        check_first(first)
        if self._told.kind != "mcp":
            return None
        found = await info.context.tools(self._told)
        page, where = take(found, first, after, lambda tool: tool.name)
        return Connection(nodes=[Tool.of(self._told.name, it) for it in page], page_info=where, total_count=len(found))

    @strawberry.field(description="The agent that it is; null when it is none.")
    def agent(self) -> Agent | None:
        return Agent(_told=self._told) if self._told.kind == "agent" else None


@strawberry.type(description="A revision of the mesh document, without its content.")
class Revision:
    """As the control plane tells it."""

    number: int
    author: str
    message: str
    status: RevisionStatus | None
    cause: str = strawberry.field(description="Why it was undone; empty while it was not.")
    restores: int | None = strawberry.field(description="The revision whose content it has again.")
    document_version: str
    create_time: datetime | None

    @classmethod
    def of(cls, told: config_pb2.Revision) -> "Revision":
        return cls(
            number=told.number,
            author=told.author,
            message=told.message,
            status=RevisionStatus(told.status) if told.status else None,
            cause=told.cause,
            restores=told.restores or None,
            document_version=told.document_version,
            create_time=moment_of(told.create_time),
        )


@strawberry.type(description="One change of a task.")
class TaskUpdate:
    """As WatchTask tells it."""

    sequence: int = strawberry.field(description="For `after`, to go on from here.")
    time: datetime | None
    state: TaskState
    progress: float
    message: str
    error: TaskError | None

    @classmethod
    def of(cls, told: agent_pb2.TaskUpdate) -> "TaskUpdate":
        return cls(
            sequence=told.sequence,
            time=moment_of(told.time),
            state=TaskState(told.state),
            progress=told.progress,
            message=told.status_message,
            error=TaskError.of(told.error) if told.HasField("error") else None,
        )


def moment_of(stamp: Timestamp) -> datetime | None:
    """None for one that is not set."""
    return stamp.ToDatetime(tzinfo=UTC) if stamp.ByteSize() else None
