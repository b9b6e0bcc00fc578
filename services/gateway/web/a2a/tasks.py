"""Tasks of the mesh as tasks and events of A2A.

What an agent has produced is one artifact for each part, or for all parts that say that they belong to the same.
"""

from collections.abc import Iterable, Iterator

from a2a.types import a2a_pb2 as a2a
from google.protobuf.timestamp_pb2 import Timestamp

from agentmesh.agent.v1 import agent_pb2 as pb
from agentmesh.error.v1 import error_pb2
from mesh.a2a import part_from_mesh, set_struct
from services.gateway.web.a2a.states import has_ended, is_waiting

Event = a2a.Task | a2a.TaskStatusUpdateEvent | a2a.TaskArtifactUpdateEvent

# By name: the numbers differ.
_STATES = {number: name for name, number in pb.TaskState.items()}
_BACK: dict[int, pb.TaskState.ValueType] = {a2a.TaskState.Value(name): number for number, name in _STATES.items()}


def state_to_mesh(state: int) -> "pb.TaskState.ValueType":
    """The state of the mesh; TASK_STATE_UNSPECIFIED for a number that is none."""
    return _BACK.get(state, pb.TASK_STATE_UNSPECIFIED)


def task_from_mesh(task: pb.Task, *, with_output: bool = True) -> a2a.Task:
    """A task as it stands, with all of its history."""
    made = a2a.Task(
        id=task.id,
        context_id=task.context_id,
        status=_status(task, task.update_time, task.sequence),
        history=[message_from_mesh(message, task) for message in task.history],
    )
    if with_output:
        for event in Artifacts(task).take(task.output):
            if event.append:
                known = next(it for it in made.artifacts if it.artifact_id == event.artifact.artifact_id)
                known.parts.extend(event.artifact.parts)
            else:
                made.artifacts.append(event.artifact)
    made.metadata["skill"] = task.skill_id
    return made


class Artifacts:
    """Puts the output of one task into artifacts, in the order of its production."""

    def __init__(self, task: pb.Task) -> None:
        self._task = task
        self._count = 0
        self._known: set[str] = set()

    def take(self, parts: Iterable[pb.Part]) -> Iterator[a2a.TaskArtifactUpdateEvent]:
        """An event for each part: the beginning of an artifact, or more of one."""
        for part in parts:
            self._count += 1
            artifact = a2a.Artifact(artifact_id=part.artifact.id or str(self._count), parts=[part_from_mesh(part)])
            is_more = artifact.artifact_id in self._known
            if not is_more:
                self._known.add(artifact.artifact_id)
                artifact.name = part.artifact.name or part.name
                artifact.description = part.artifact.description
                artifact.extensions.extend(part.artifact.extensions)
                if part.artifact.metadata:
                    set_struct(artifact.metadata, part.artifact.metadata)
            yield a2a.TaskArtifactUpdateEvent(
                task_id=self._task.id,
                context_id=self._task.context_id,
                artifact=artifact,
                append=is_more,
                # Only an artifact of one part is known to be whole.
                last_chunk=not part.HasField("artifact"),
            )


def events_of(task: pb.Task, update: pb.TaskUpdate, artifacts: Artifacts) -> Iterator[Event]:
    """What one update means: output first, as a state may be the last."""
    yield from artifacts.take(update.output)
    is_only_output = update.output and update.state == pb.TASK_STATE_WORKING
    if not is_only_output:
        event = a2a.TaskStatusUpdateEvent(
            task_id=task.id, context_id=task.context_id, status=_status(update, update.time, update.sequence, task)
        )
        event.metadata["progress"] = update.progress
        yield event


def message_from_mesh(message: pb.Message, task: pb.Task) -> a2a.Message:
    """What one side has said."""
    made = a2a.Message(
        message_id=message.id,
        context_id=task.context_id,
        task_id=task.id,
        role=a2a.ROLE_AGENT if message.role == pb.ROLE_AGENT else a2a.ROLE_USER,
        parts=[part_from_mesh(part) for part in message.parts],
        extensions=message.extensions,
        reference_task_ids=message.reference_task_ids,
    )
    if message.metadata:
        set_struct(made.metadata, message.metadata)
    return made


def _status(
    change: pb.Task | pb.TaskUpdate, time: Timestamp, sequence: int, task: pb.Task | None = None
) -> a2a.TaskStatus:
    status = a2a.TaskStatus(state=_STATES[change.state], timestamp=time)
    of = task if task is not None else change
    assert isinstance(of, pb.Task)
    if change.HasField("message") and (task is not None or is_waiting(change.state) or has_ended(change.state)):
        status.message.CopyFrom(message_from_mesh(change.message, of))
    elif change.HasField("error"):
        status.message.CopyFrom(_said(of, sequence, _explain(change.error)))
        _tell_error(status.message, change.error)
    elif change.status_message:
        status.message.CopyFrom(_said(of, sequence, change.status_message))
    return status


def _said(task: pb.Task, sequence: int, text: str) -> a2a.Message:
    return a2a.Message(
        # The same for all who ask: nothing is said twice.
        message_id=f"{task.id}-{sequence}",
        task_id=task.id,
        context_id=task.context_id,
        role=a2a.ROLE_AGENT,
        parts=[a2a.Part(text=text)],
    )


def _explain(error: error_pb2.ErrorDetail) -> str:
    return f"{error.summary} {error.fix}".strip() or error.reason


def _tell_error(message: a2a.Message, error: error_pb2.ErrorDetail) -> None:
    for name in ("reason", "field", "service", "correlation_id"):
        if value := getattr(error, name):
            message.metadata[name] = value
    message.metadata["retryable"] = error.retryable
