"""Carries one task: what the mesh's caller sends to the agent elsewhere, and what that says back.

    send ──> events ──> progress, outputs, the end
      ^        └── a question ──> TaskContext.ask ──> answer ──┐
      └────────────────────────────────────────────────────────┘

A broken stream is taken up again, by a subscription where the agent has that, else by asking for the task. Outputs that
have come are counted, so that none is given twice.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import TYPE_CHECKING

import httpx
from a2a.client import Client
from a2a.client.errors import A2AClientError
from a2a.types import a2a_pb2 as a2a
from a2a.utils.errors import A2AError, TaskNotFoundError, UnsupportedOperationError

from mesh.a2a import part_from_mesh, part_to_mesh, set_struct, struct_to_json
from mesh.agent import Artifact, Part, TaskContext
from mesh.agent.codec import part_from_proto, part_to_proto
from mesh.errors import Canceled, FailedPrecondition, InvalidInput, Unavailable
from mesh.runtime import Backoff

if TYPE_CHECKING:
    from services.a2a_bridge.proxy import Contexts

_MOST_BREAKS = 20
_CANCEL = 3.0
_WAITING = (a2a.TASK_STATE_INPUT_REQUIRED, a2a.TASK_STATE_AUTH_REQUIRED)
_ENDED = (a2a.TASK_STATE_COMPLETED, a2a.TASK_STATE_FAILED, a2a.TASK_STATE_CANCELED, a2a.TASK_STATE_REJECTED)
_FAILURES = (A2AError, A2AClientError, httpx.HTTPError)


class Relay:
    """One task of the mesh, and the one at the other agent that it becomes."""

    def __init__(self, client: Client, contexts: "Contexts", task: TaskContext, skill: str) -> None:
        self._client = client
        self._contexts = contexts
        self._task = task
        self._skill = skill
        self._id = ""
        self._status = a2a.TaskStatus()
        self._has_answered = False
        self._given: Counter[str] = Counter()

    async def run(self, parts: Sequence[Part]) -> None:
        """To the end. Raises MeshError for a task that failed there, or that cannot be reached any more."""
        number = 0
        try:
            while True:
                # The same after a repetition: the other agent may know it, too.
                await self._say(f"{self._task.id}-{number}", parts)
                number += 1
                if self._has_answered or self._status.state in _ENDED:
                    break
                question = [_part(part) for part in self._status.message.parts] or [Part.of("More input, please.")]
                needs_login = self._status.state == a2a.TASK_STATE_AUTH_REQUIRED
                parts = (await self._task.ask(*question, needs_login=needs_login)).parts
        except asyncio.CancelledError:
            await self._cancel()
            raise
        self._end()

    async def _say(self, message_id: str, parts: Sequence[Part]) -> None:
        """Send, and follow until the task has ended or asks something."""
        request = self._message(message_id, parts)
        self._status = a2a.TaskStatus()
        backoff = Backoff(0.2, 10.0)
        for _ in range(_MOST_BREAKS):
            known = self._id if self._status.state else ""
            try:
                events = self._client.send_message(request) if not known else self._take_up()
                async for event in events:
                    self._take(event)
                    if self._has_answered or self._status.state in (*_ENDED, *_WAITING):
                        return
                    backoff.reset()
            except TaskNotFoundError as err:
                raise Unavailable("The other agent does not know the task any more.", reason="TASK_LOST") from err
            except _FAILURES as err:
                if not _may_repeat(err):
                    raise _refused(err) from err
            await asyncio.sleep(backoff.next())
        raise Unavailable("The other agent cannot be reached.", reason="AGENT_AWAY", fix="Try again later.")

    def _message(self, message_id: str, parts: Sequence[Part]) -> a2a.SendMessageRequest:
        message = a2a.Message(
            message_id=message_id,
            role=a2a.ROLE_USER,
            parts=[part_from_mesh(part_to_proto(part)) for part in parts],
            context_id=self._contexts.find(self._task.context_id),
            task_id=self._id,
        )
        told = self._task.history[-1]
        if told.metadata:
            set_struct(message.metadata, told.metadata)
        message.extensions.extend(told.extensions)
        message.metadata["skill"] = self._skill
        return a2a.SendMessageRequest(message=message)

    async def _take_up(self) -> AsyncIterator[a2a.StreamResponse]:
        """What has become of the task meanwhile."""
        with contextlib.suppress(UnsupportedOperationError, NotImplementedError):
            async for event in self._client.subscribe(a2a.SubscribeToTaskRequest(id=self._id)):
                yield event
        yield a2a.StreamResponse(task=await self._client.get_task(a2a.GetTaskRequest(id=self._id)))

    def _take(self, event: a2a.StreamResponse) -> None:
        match event.WhichOneof("payload"):
            case "task":
                self._know(event.task.id, event.task.context_id)
                for artifact in event.task.artifacts:
                    # All that there is: what has come before is left out.
                    self._give(artifact, artifact.parts[self._given[artifact.artifact_id] :])
                self._note(event.task.status)
            case "message":
                self._know("", event.message.context_id)
                for part in event.message.parts:
                    self._task.add_output(_part(part))
                self._has_answered = True
            case "artifact_update":
                self._know(event.artifact_update.task_id, event.artifact_update.context_id)
                self._give(event.artifact_update.artifact, event.artifact_update.artifact.parts)
            case "status_update":
                self._know(event.status_update.task_id, event.status_update.context_id)
                self._note(event.status_update.status)

    def _know(self, task_id: str, context_id: str) -> None:
        self._id = task_id or self._id
        if context_id:
            self._contexts.note(self._task.context_id, context_id)

    def _note(self, status: a2a.TaskStatus) -> None:
        self._status = status
        if status.state == a2a.TASK_STATE_WORKING and (said := _text(status)):
            self._task.report(0.0, said)

    def _give(self, artifact: a2a.Artifact, parts: Iterable[a2a.Part]) -> None:
        about = Artifact(
            artifact.artifact_id,
            artifact.name,
            artifact.description,
            struct_to_json(artifact.metadata),
            tuple(artifact.extensions),
        )
        for part in parts:
            self._given[artifact.artifact_id] += 1
            self._task.add_output(_part(part, about))

    def _end(self) -> None:
        said = _text(self._status)
        match self._status.state:
            case a2a.TASK_STATE_REJECTED:
                self._task.reject(said or "The other agent does not want the task.")
            case a2a.TASK_STATE_CANCELED:
                raise Canceled(said or "The task was cancelled at the other agent.")
            case a2a.TASK_STATE_FAILED:
                raise FailedPrecondition(said or "The task failed at the other agent.", reason="REMOTE_TASK_FAILED")

    async def _cancel(self) -> None:
        if not self._id or self._status.state in _ENDED:
            return
        with contextlib.suppress(TimeoutError, *_FAILURES):
            async with asyncio.timeout(_CANCEL):
                await self._client.cancel_task(a2a.CancelTaskRequest(id=self._id))


def _part(part: a2a.Part, artifact: Artifact | None = None) -> Part:
    made = part_from_proto(part_to_mesh(part), field="output")
    return (
        made
        if artifact is None
        else Part(made.kind, made.content, made.media_type, made.name, made.filename, made.metadata, artifact)
    )


def _text(status: a2a.TaskStatus) -> str:
    return " ".join(part.text for part in status.message.parts if part.text)


def _may_repeat(error: Exception) -> bool:
    """Whether it is the way that failed, or the other agent for a moment, and not the request."""
    if isinstance(error, A2AError) and not isinstance(error, A2AClientError):
        return False
    cause = error.__cause__ if isinstance(error, A2AClientError) else error
    return not isinstance(cause, httpx.HTTPStatusError) or cause.response.status_code >= 500


def _refused(error: Exception) -> InvalidInput | FailedPrecondition:
    kind = InvalidInput if type(error).__name__ == "InvalidParamsError" else FailedPrecondition
    return kind(f"The other agent refuses it: {str(error)[:300]}", reason="REMOTE_REFUSED")
