"""Gives work to another agent and follows it to the end."""

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc

from agentmesh.agent.v1 import agent_pb2
from agentmesh.agent.v1 import agent_service_pb2 as pb
from agentmesh.agent.v1 import agent_service_pb2_grpc as pb_grpc
from mesh.agent.codec import duration_to_proto, error_from_proto, part_from_proto, part_to_proto
from mesh.agent.part import Part
from mesh.agent.task import TaskState
from mesh.agent.tools import from_service
from mesh.errors import Canceled, DeadlineExceeded, FailedPrecondition, MeshError, NotFound, Unavailable
from mesh.runtime import Backoff

_UNARY_SECONDS = 10.0
_CANCEL_SECONDS = 3.0
_MOST_BREAKS = 8
_MOST_INSTANCES = 64
# How a stream breaks when the agent, or a proxy on the way, goes away.
_BROKEN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class AgentUpdate:
    """One change of a task at another agent; `output` is what it added."""

    sequence: int
    state: TaskState
    progress: float
    message: str
    output: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class AgentResult:
    """What another agent gave back, in the order of production."""

    task_id: str
    output: tuple[Part, ...]

    @property
    def value(self) -> Any:
        """The one output as a Python value; a tuple when there are several, None when there is none."""
        values = tuple(part.value for part in self.output)
        return values[0] if len(values) == 1 else values or None


OnUpdate = Callable[[AgentUpdate], None]


class RemoteTask:
    """A task at another agent, from its submission to its end."""

    def __init__(self, channel: grpc.aio.Channel, service: str, on_update: OnUpdate | None) -> None:
        self._stub = pb_grpc.AgentServiceStub(channel)
        self._service = service
        self._on_update = on_update
        self._sequence = 0
        self._output: list[Part] = []

    async def run(self, skill: str, part: Part, *, timeout: float) -> AgentResult:
        """Submit and follow; cancels the task at the agent when it is late or this coroutine is cancelled."""
        request = pb.SubmitTaskRequest(
            message_id=uuid.uuid4().hex,
            skill_id=skill,
            input=[part_to_proto(part)],
            timeout=duration_to_proto(timeout),
        )
        submitting = asyncio.ensure_future(self._submit(request))
        try:
            async with asyncio.timeout(timeout):
                # Shielded: a submission that is on its way must be known to be cancelled.
                task_id = await asyncio.shield(submitting)
                last = await self._follow(task_id)
        except TimeoutError as err:
            await self._cancel(submitting)
            raise DeadlineExceeded(
                f"{skill} of {self._service} took longer than {timeout:g} s.",
                service=self._service,
                fix="Give it more time, or ask for less.",
            ) from err
        except (asyncio.CancelledError, MeshError):
            # An error here is that of the way to the agent: nobody waits for the task any more.
            await self._cancel(submitting)
            raise
        if last.state == agent_pb2.TASK_STATE_FAILED:
            raise error_from_proto(last.error, service=self._service)
        if last.state == agent_pb2.TASK_STATE_REJECTED:
            raise FailedPrecondition(
                last.status_message or "The agent does not want the task.",
                reason="TASK_REJECTED",
                service=self._service,
            )
        if last.state == agent_pb2.TASK_STATE_CANCELED:
            raise Canceled(last.status_message or "The task was cancelled.", service=self._service)
        return AgentResult(task_id, tuple(self._output))

    async def _submit(self, request: pb.SubmitTaskRequest) -> str:
        # May be repeated: the agent knows the message id.
        backoff = Backoff(0.05, 1.0)
        for attempt in range(_MOST_BREAKS):
            try:
                return (await self._stub.SubmitTask(request, timeout=_UNARY_SECONDS)).task.id
            except grpc.aio.AioRpcError as err:
                if err.code() is not grpc.StatusCode.UNAVAILABLE or attempt == _MOST_BREAKS - 1:
                    raise from_service(err, self._service) from err
            await asyncio.sleep(backoff.next())
        raise AssertionError("the last attempt returns or raises")

    async def _follow(self, task_id: str) -> agent_pb2.TaskUpdate:
        """Watch to the end; a broken stream is taken up again after the last update that came."""
        backoff = Backoff(0.05, 1.0)
        breaks = strangers = 0
        while True:
            seen = self._sequence
            try:
                last = await self._watch(task_id)
                if last is not None:
                    return last
                error: MeshError = Unavailable(f"{self._service} ended the stream early.", service=self._service)
            except grpc.aio.AioRpcError as err:
                error = from_service(err, self._service)
                if is_of_other_instance(error) and strangers < _MOST_INSTANCES:
                    # The sidecar spreads calls over the instances: one of the next meets the right one.
                    strangers += 1
                    await asyncio.sleep(0.01)
                    continue
                if err.code() not in _BROKEN:
                    raise error from err
            breaks = 0 if self._sequence > seen else breaks + 1
            if breaks >= _MOST_BREAKS:
                raise error
            if self._sequence > seen:
                backoff.reset()
            await asyncio.sleep(backoff.next())

    async def _watch(self, task_id: str) -> agent_pb2.TaskUpdate | None:
        call = self._stub.WatchTask(pb.WatchTaskRequest(task_id=task_id, after_sequence=self._sequence))
        try:
            async for response in call:
                update = response.update
                parts = tuple(part_from_proto(part, field="output") for part in update.output)
                self._sequence = update.sequence
                self._output.extend(parts)
                state = TaskState(update.state)
                if self._on_update is not None:
                    self._on_update(AgentUpdate(update.sequence, state, update.progress, update.status_message, parts))
                if state.is_end:
                    return update
                if state.is_waiting:
                    raise FailedPrecondition(
                        f"The task at {self._service} waits for an answer, and nobody is there to give one.",
                        reason=state.name,
                        service=self._service,
                        fix="Put all that the skill needs into its input.",
                    )
        finally:
            call.cancel()
        return None

    async def _cancel(self, submitting: "asyncio.Future[str]") -> None:
        """Cancel the task at the agent, if it can be reached soon; its own timeout ends it otherwise."""
        with contextlib.suppress(TimeoutError, MeshError, grpc.aio.AioRpcError):
            try:
                async with asyncio.timeout(_CANCEL_SECONDS):
                    request = pb.CancelTaskRequest(task_id=await submitting)
                    await _ask_instances(lambda: self._stub.CancelTask(request, timeout=_CANCEL_SECONDS), self._service)
            finally:
                submitting.cancel()


def is_of_other_instance(error: MeshError) -> bool:
    """Whether an instance says that another one has made the task."""
    return isinstance(error, NotFound) and error.reason == "TASK_OF_OTHER_INSTANCE"


async def _ask_instances(ask: Callable[[], Awaitable[_T]], service: str) -> _T:
    for _ in range(_MOST_INSTANCES):
        try:
            return await ask()
        except grpc.aio.AioRpcError as err:
            error = from_service(err, service)
            if not is_of_other_instance(error):
                raise error from err
        await asyncio.sleep(0.01)
    raise Unavailable(f"No instance of {service} knows the task.", service=service)
