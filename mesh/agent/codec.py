"""Proto messages of agentmesh.agent.v1 <-> what this room works with."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Literal

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from agentmesh.agent.v1 import agent_pb2 as pb
from agentmesh.error.v1 import error_pb2
from mesh import errors
from mesh.agent.agent import Agent
from mesh.agent.message import Message
from mesh.agent.part import BYTES, JSON, TEXT, Artifact, Part
from mesh.agent.skill import Skill
from mesh.agent.task import Task, TaskState, Update
from mesh.agent.task_feed import TaskChange
from mesh.errors import FailedPrecondition, InvalidInput, MeshError, Unavailable

_MOST_PARTS = 100
# Those that say no more than a MeshError: others cannot be made of a summary and a field.
_BY_REASON: dict[str, type[MeshError]] = {
    kind.default_reason: kind
    for kind in (getattr(errors, name) for name in errors.__all__)
    if issubclass(kind, MeshError) and kind is not MeshError and kind.__init__ is MeshError.__init__
}


def part_from_proto(part: pb.Part, *, field: str = "input") -> Part:
    """Raises InvalidInput for a part without content."""
    kind: Literal["text", "json", "raw", "url"]
    match part.WhichOneof("content"):
        case "text" if part.media_type == JSON:
            # Who has no other way to write JSON than as text, as in REST, need not write it in base64.
            kind, content, media_type = "json", part.text.encode(), JSON
        case "text":
            kind, content, media_type = "text", part.text.encode(), part.media_type or TEXT
        case "json":
            kind, content, media_type = "json", part.json, part.media_type or JSON
        case "raw":
            kind, content, media_type = "raw", part.raw, part.media_type or BYTES
        case "url":
            kind, content, media_type = "url", part.url.encode(), part.media_type
        case _:
            raise InvalidInput("The part has no content.", field=field, fix="Set its text, json, raw or url.")
    artifact = artifact_from_proto(part.artifact) if part.HasField("artifact") else None
    return Part(kind, content, media_type, part.name, part.filename, part.metadata, artifact)


def artifact_from_proto(artifact: pb.Artifact) -> Artifact:
    """What parts of an output make together."""
    return Artifact(artifact.id, artifact.name, artifact.description, artifact.metadata, tuple(artifact.extensions))


def parts_from_proto(parts: Iterable[pb.Part]) -> list[Part]:
    """Raises InvalidInput that names the part at fault."""
    read = [part_from_proto(part, field=f"input.{index}") for index, part in enumerate(parts)]
    names = [part.name for part in read]
    if len(read) > _MOST_PARTS or len(set(names)) != len(names):
        raise InvalidInput(
            f"At most {_MOST_PARTS} parts, and each with another name.", field="input", fix="Name the parts."
        )
    return read


def part_to_proto(part: Part) -> pb.Part:
    made = pb.Part(name=part.name, media_type=part.media_type, filename=part.filename, metadata=part.metadata)
    if part.artifact is not None:
        made.artifact.id = part.artifact.id
        made.artifact.name = part.artifact.name
        made.artifact.description = part.artifact.description
        made.artifact.metadata = part.artifact.metadata
        made.artifact.extensions.extend(part.artifact.extensions)
    match part.kind:
        case "text":
            made.text = part.content.decode(errors="replace")
        case "json":
            made.json = part.content
        case "url":
            made.url = part.content.decode(errors="replace")
        case _:
            made.raw = part.content
    return made


def error_to_proto(error: MeshError, *, service: str, correlation_id: str) -> error_pb2.ErrorDetail:
    return error_pb2.ErrorDetail(
        reason=error.reason,
        summary=error.summary,
        field=error.field,
        fix=error.fix,
        service=error.service or service,
        retryable=error.retryable,
        correlation_id=correlation_id,
    )


def error_to_json(error: MeshError, *, service: str, correlation_id: str) -> dict[str, Any]:
    """The fields of agentmesh.error.v1.ErrorDetail, under the names of the contract."""
    detail = error_to_proto(error, service=service, correlation_id=correlation_id)
    return {field.name: getattr(detail, field.name) for field in detail.DESCRIPTOR.fields}


def error_from_proto(detail: error_pb2.ErrorDetail, *, service: str) -> MeshError:
    """The error of a failed task. The contract carries no code: the class follows from what the detail says."""
    kind = _BY_REASON.get(detail.reason)
    if kind is None:
        kind = Unavailable if detail.retryable else FailedPrecondition
        kind = InvalidInput if detail.field else kind
    return kind(
        detail.summary or "The task failed.",
        reason=detail.reason,
        field=detail.field,
        fix=detail.fix,
        service=detail.service or service,
        retryable=detail.retryable,
    )


def update_to_proto(update: Update, *, service: str, correlation_id: str) -> pb.TaskUpdate:
    made = pb.TaskUpdate(
        sequence=update.sequence,
        time=timestamp_to_proto(update.time),
        state=state_to_proto(update.state),
        progress=update.progress,
        status_message=update.message,
        output=[part_to_proto(part) for part in update.output],
    )
    if update.error is not None:
        made.error.CopyFrom(error_to_proto(update.error, service=service, correlation_id=correlation_id))
    if update.said is not None:
        made.message.CopyFrom(message_to_proto(update.said))
    return made


def task_to_proto(task: Task, *, service: str, with_output: bool = True, with_history: bool = False) -> pb.Task:
    made = change_to_proto(task, service=service)
    if with_output:
        made.output.extend(part_to_proto(part) for part in task.output)
    if with_history:
        made.history.extend(message_to_proto(message) for message in task.history)
    return made


def message_to_proto(message: Message) -> pb.Message:
    return pb.Message(
        id=message.id,
        role=pb.ROLE_AGENT if message.is_agents else pb.ROLE_USER,
        parts=[part_to_proto(part) for part in message.parts],
        metadata=message.metadata,
        extensions=message.extensions,
        reference_task_ids=message.reference_task_ids,
        time=timestamp_to_proto(message.time),
    )


def change_to_proto(task: Task | TaskChange, *, service: str) -> pb.Task:
    """A task without its output."""
    newest = task.newest
    made = pb.Task(
        id=task.id,
        context_id=task.origin.context_id,
        skill_id=task.origin.skill_id,
        state=state_to_proto(newest.state),
        progress=newest.progress,
        status_message=newest.message,
        sequence=newest.sequence,
        create_time=timestamp_to_proto(task.created),
        update_time=timestamp_to_proto(newest.time),
        submitter=task.origin.submitter,
        principal=task.origin.user.principal if task.origin.user is not None else "",
    )
    if newest.said is not None:
        made.message.CopyFrom(message_to_proto(newest.said))
    if newest.error is not None:
        detail = error_to_proto(newest.error, service=service, correlation_id=task.origin.correlation_id)
        made.error.CopyFrom(detail)
    return made


def card_to_proto(agent: Agent, *, service: str, spiffe_id: str) -> pb.AgentCard:
    limits = agent.limits
    return pb.AgentCard(
        name=service,
        spiffe_id=spiffe_id,
        version=agent.version,
        description=agent.description,
        skills=[skill_to_proto(skill) for skill in agent.skills.values()],
        limits=pb.Limits(
            max_concurrent_tasks=limits.max_concurrent_tasks,
            max_input_bytes=limits.max_input_bytes,
            max_task_duration=duration_to_proto(limits.max_task_seconds),
        ),
    )


def skill_to_proto(skill: Skill) -> pb.Skill:
    return pb.Skill(
        id=skill.id,
        name=skill.name,
        description=skill.description,
        tags=skill.tags,
        input_modes=skill.input_modes,
        output_modes=skill.output_modes,
        input_schema=skill.input_schema,
        output_schema=skill.output_schema,
    )


def state_to_proto(state: TaskState) -> "pb.TaskState.ValueType":
    value: pb.TaskState.ValueType = pb.TaskState.Value(f"TASK_STATE_{state.name}")
    return value


def states_from_proto(states: Iterable[int]) -> frozenset[TaskState]:
    """Raises InvalidInput for a number that is no state."""
    try:
        return frozenset(TaskState(state) for state in states)
    except ValueError as err:
        raise InvalidInput("There is a value that is no state of a task.", field="states") from err


def timestamp_to_proto(moment: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(moment)
    return made


def duration_to_proto(seconds: float) -> Duration:
    made = Duration()
    made.FromTimedelta(timedelta(seconds=seconds))
    return made


def seconds_from_proto(duration: Duration, *, field: str = "timeout") -> float:
    """Raises InvalidInput for a duration that is not positive."""
    seconds = duration.seconds + duration.nanos / 1e9
    if seconds <= 0:
        raise InvalidInput(f"{seconds:g} s is no time to work.", field=field, fix="Give a positive duration, or none.")
    return seconds
