"""One Converse stream: envelopes in, envelopes out.

    reader ──> TASK_REQUEST ──────> a task, whose answer comes when it has ended
          ├──> CAPABILITY_QUERY, HEALTH_CHECK, COORDINATION: answered before the next envelope is read
          └──> ERROR, and a HEALTH_CHECK that is an answer: nothing, or two agents would answer each other for ever

What waits for a slow caller is bounded: reading stops while an answer is written, tasks by the agent's limits.
"""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from agentmesh.agent.v1 import agent_pb2
from agentmesh.agent.v1 import agent_service_pb2 as pb
from mesh.agent.agent import Agent, Coordination
from mesh.agent.board import TaskBoard
from mesh.agent.codec import error_to_json, timestamp_to_proto
from mesh.agent.envelopes import TaskRequest, parse_capability_query, parse_task_request, skill_to_json, task_output
from mesh.agent.supervised import supervise_handler
from mesh.agent.task import Task, TaskOrigin, TaskState
from mesh.errors import Canceled, DeadlineExceeded, FailedPrecondition, InvalidInput, MeshError, Unimplemented
from mesh.rpc import CallContext

_COORDINATION_SECONDS = 30.0
_LONGEST_ID = 256

Send = Callable[[pb.ConverseResponse], Awaitable[None]]


class Conversation:
    """Serves one stream. `caller` is the SPIFFE id of the other side's certificate, or ""."""

    def __init__(
        self, agent: Agent, board: TaskBoard, send: Send, *, service: str, caller: str, facts: CallContext
    ) -> None:
        self._agent = agent
        self._board = board
        self._send = send
        self._service = service
        self._caller = caller
        self._facts = facts
        self._stream = uuid.uuid4().hex
        self._writing = asyncio.Lock()
        self._open: dict[str, Task] = {}

    async def run(self, requests: AsyncIterator[pb.ConverseRequest], draining: asyncio.Event) -> None:
        """Return when the caller has closed its side and has all answers, or when the agent drains.

        When the stream breaks, its tasks are cancelled: nothing of it survives.
        """
        try:
            async with asyncio.TaskGroup() as group:
                reading = group.create_task(self._read(requests, group))
                drained = group.create_task(draining.wait())
                await asyncio.wait({reading, drained}, return_when=asyncio.FIRST_COMPLETED)
                drained.cancel()
                reading.cancel()
        finally:
            for task in tuple(self._open.values()):
                await _stop(self._board, task)

    async def _read(self, requests: AsyncIterator[pb.ConverseRequest], group: asyncio.TaskGroup) -> None:
        async for request in requests:
            envelope = request.envelope
            try:
                await self._take(envelope, group)
            except MeshError as err:
                await self._refuse(envelope, err)

    async def _take(self, envelope: agent_pb2.Envelope, group: asyncio.TaskGroup) -> None:
        self._check(envelope)
        match envelope.type:
            case agent_pb2.ENVELOPE_TYPE_TASK_REQUEST:
                self._take_task(envelope, parse_task_request(envelope.payload), group)
            case agent_pb2.ENVELOPE_TYPE_CAPABILITY_QUERY:
                tags = parse_capability_query(envelope.payload)
                skills = [skill_to_json(skill) for skill in self._agent.skills.values() if tags <= set(skill.tags)]
                await self._answer(envelope, agent_pb2.ENVELOPE_TYPE_CAPABILITY_RESPONSE, _dump({"skills": skills}))
            case agent_pb2.ENVELOPE_TYPE_HEALTH_CHECK:
                if not envelope.causation_id:
                    status = "NOT_SERVING" if self._board.is_draining else "SERVING"
                    payload = _dump({"status": status, "running_tasks": self._board.running})
                    await self._answer(envelope, agent_pb2.ENVELOPE_TYPE_HEALTH_CHECK, payload)
            case agent_pb2.ENVELOPE_TYPE_COORDINATION:
                await self._coordinate(envelope)
            case agent_pb2.ENVELOPE_TYPE_ERROR:
                return
            case agent_pb2.ENVELOPE_TYPE_TASK_RESPONSE | agent_pb2.ENVELOPE_TYPE_CAPABILITY_RESPONSE:
                raise FailedPrecondition(
                    "This answers nothing that was asked on this stream.", reason="UNEXPECTED_ANSWER", field="type"
                )
            case _:
                raise InvalidInput(f"{envelope.type} is no type of envelope.", reason="BAD_ENVELOPE", field="type")

    def _check(self, envelope: agent_pb2.Envelope) -> None:
        most = self._agent.limits.max_input_bytes
        if not envelope.id:
            raise InvalidInput("The envelope has no id.", reason="BAD_ENVELOPE", field="id", fix="Give each its own.")
        for field in ("id", "correlation_id", "causation_id", "sender"):
            if len(getattr(envelope, field)) > _LONGEST_ID:
                raise InvalidInput(f"It has more than {_LONGEST_ID} characters.", reason="BAD_ENVELOPE", field=field)
        if len(envelope.payload) > most:
            raise InvalidInput(
                f"The payload has {len(envelope.payload)} bytes; {self._service} takes {most} at most.",
                reason="INPUT_TOO_LARGE",
                field="payload",
                fix="Send less.",
            )

    def _take_task(self, envelope: agent_pb2.Envelope, request: TaskRequest, group: asyncio.TaskGroup) -> None:
        if envelope.id in self._open:
            return  # a repetition: the answer to the first one answers it
        origin = TaskOrigin(
            skill_id=request.skill,
            context_id=envelope.correlation_id,
            submitter=self._caller,
            # Unique for its sender on this stream only, since nothing survives its end.
            message_id=f"{self._stream}.{uuid.uuid5(uuid.NAMESPACE_OID, envelope.id).hex}",
            correlation_id=self._facts.correlation_id,
        )
        task = self._board.submit(origin, [request.input])
        self._open[envelope.id] = task
        group.create_task(self._answer_task(envelope, task))

    async def _answer_task(self, envelope: agent_pb2.Envelope, task: Task) -> None:
        await task.wait_ended()
        newest = task.newest
        if newest.state is TaskState.COMPLETED:
            await self._answer(envelope, agent_pb2.ENVELOPE_TYPE_TASK_RESPONSE, task_output(task.output))
        else:
            await self._refuse(envelope, newest.error or Canceled(newest.message))
        self._open.pop(envelope.id, None)

    async def _coordinate(self, envelope: agent_pb2.Envelope) -> None:
        handler = self._agent.coordination_handler
        if handler is None:
            raise Unimplemented(
                f"{self._service} takes part in no coordination protocol.", reason="NO_COORDINATION", field="type"
            )
        message = Coordination(
            id=envelope.id,
            payload=envelope.payload,
            correlation_id=envelope.correlation_id,
            sender=envelope.sender,
            caller=self._caller,
        )
        limit = asyncio.timeout(_COORDINATION_SECONDS)
        answer, error = await supervise_handler(handler(message), limit, "coordination")
        if limit.expired():
            error = DeadlineExceeded(f"The protocol's handler took longer than {_COORDINATION_SECONDS:g} s.")
        if error is not None:
            raise error
        if answer is not None:
            await self._answer(envelope, agent_pb2.ENVELOPE_TYPE_COORDINATION, answer)

    async def _refuse(self, envelope: agent_pb2.Envelope, error: MeshError) -> None:
        facts = error_to_json(error, service=self._service, correlation_id=self._facts.correlation_id)
        await self._answer(envelope, agent_pb2.ENVELOPE_TYPE_ERROR, _dump(facts))

    async def _answer(
        self, envelope: agent_pb2.Envelope, kind: agent_pb2.EnvelopeType.ValueType, payload: bytes
    ) -> None:
        answer = agent_pb2.Envelope(
            id=uuid.uuid4().hex,
            timestamp=timestamp_to_proto(datetime.now(UTC)),
            type=kind,
            payload=payload,
            # The first envelope of a piece of work may leave it to its own id.
            correlation_id=envelope.correlation_id or envelope.id,
            causation_id=envelope.id,
            sender=self._service,
        )
        async with self._writing:
            await self._send(pb.ConverseResponse(envelope=answer))


async def _stop(board: TaskBoard, task: Task) -> None:
    if not task.newest.state.is_end:
        await board.cancel(task.id, by="the end of its conversation")


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
