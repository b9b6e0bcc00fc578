"""Serves agentmesh.agent.v1.AgentService."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import grpc

from agentmesh.agent.v1 import agent_service_pb2 as pb
from agentmesh.agent.v1 import agent_service_pb2_grpc as pb_grpc
from mesh.agent.agent import Agent
from mesh.agent.board import TaskBoard
from mesh.agent.codec import (
    card_to_proto,
    change_to_proto,
    parts_from_proto,
    seconds_from_proto,
    states_from_proto,
    task_to_proto,
    update_to_proto,
)
from mesh.agent.conversation import Conversation
from mesh.agent.message import Message
from mesh.agent.paging import PageTokens
from mesh.agent.task import TaskOrigin
from mesh.agent.user import verify_user
from mesh.errors import InvalidInput, OutOfRange
from mesh.rpc import call_context

_DEFAULT_PAGE = 50
_LARGEST_PAGE = 1000
_LARGEST_PAGE_BYTES = 4 << 20

_Context = grpc.aio.ServicerContext[Any, Any]


class AgentServicer(pb_grpc.AgentServiceServicer):
    """The service of one agent. `service` is its name in the mesh; `draining` ends its conversations."""

    def __init__(
        self, agent: Agent, board: TaskBoard, *, service: str, spiffe_id: str = "", draining: asyncio.Event
    ) -> None:
        self._agent = agent
        self._board = board
        self._service = service
        self._spiffe_id = spiffe_id
        self._draining = draining
        self._tokens = PageTokens()

    async def GetAgentCard(self, request: pb.GetAgentCardRequest, context: _Context) -> pb.GetAgentCardResponse:
        card = card_to_proto(self._agent, service=self._service, spiffe_id=self._spiffe_id)
        return pb.GetAgentCardResponse(card=card)

    async def SubmitTask(self, request: pb.SubmitTaskRequest, context: _Context) -> pb.SubmitTaskResponse:
        origin = TaskOrigin(
            skill_id=request.skill_id,
            context_id=request.context_id,
            submitter=caller_id(),
            message_id=request.message_id,
            correlation_id=call_context().correlation_id,
            user=verify_user(call_context().user_token),
            user_token=call_context().user_token,
        )
        parts = parts_from_proto(request.input)
        message = Message(
            request.message_id or uuid.uuid4().hex,
            tuple(parts),
            datetime.now(UTC),
            metadata=request.metadata,
            extensions=tuple(request.extensions),
            reference_task_ids=tuple(request.reference_task_ids),
        )
        if request.task_id:
            task = self._board.answer(origin, request.task_id, message)
        else:
            timeout = seconds_from_proto(request.timeout) if request.HasField("timeout") else None
            task = self._board.submit(origin, parts, timeout=timeout, message=message)
        return pb.SubmitTaskResponse(task=task_to_proto(task, service=self._service))

    # The stubs' types know only streams that yield; house style writes, so that a break closes things at once.
    async def WatchTask(  # type: ignore[override]
        self, request: pb.WatchTaskRequest, context: _Context
    ) -> None:
        task = self._board.get(request.task_id)
        if request.after_sequence > task.newest.sequence:
            raise OutOfRange(
                f"The newest update has the number {task.newest.sequence}.",
                field="after_sequence",
                fix="Give the number of the last update that you have, or 0 for all.",
            )
        identifier = task.origin.correlation_id
        with self._board.watching():
            async for update in task.watch(request.after_sequence):
                made = update_to_proto(update, service=self._service, correlation_id=identifier)
                await context.write(pb.WatchTaskResponse(update=made))

    async def WatchTasks(  # type: ignore[override]
        self, request: pb.WatchTasksRequest, context: _Context
    ) -> None:
        with self._board.watching(), self._board.feed.follow() as follower:
            await context.write(pb.WatchTasksResponse(ready=pb.WatchTasksReady(instance=self._board.instance)))
            async for change in follower.changes():
                await context.write(pb.WatchTasksResponse(task=change_to_proto(change, service=self._service)))

    async def GetTask(self, request: pb.GetTaskRequest, context: _Context) -> pb.GetTaskResponse:
        task = self._board.get(request.task_id)
        made = task_to_proto(task, service=self._service, with_history=request.with_history)
        return pb.GetTaskResponse(task=made)

    async def ListTasks(self, request: pb.ListTasksRequest, context: _Context) -> pb.ListTasksResponse:
        if request.page_size > _LARGEST_PAGE:
            raise InvalidInput(
                f"A page has {_LARGEST_PAGE} tasks at most.", field="page_size", fix="Ask for less, or give 0."
            )
        states = states_from_proto(request.states)
        owner = TaskOrigin("", submitter=caller_id(), user=verify_user(call_context().user_token)).owner
        filters = f"{sorted(states)} {request.context_id}" + (f" {owner}" if request.own else "")
        before = self._tokens.parse(request.page_token, filters)
        response, size = pb.ListTasksResponse(instance=self._board.instance), 0
        last = 0
        for task in self._board.newest_first(before=before):
            if request.context_id not in ("", task.origin.context_id) or (states and task.newest.state not in states):
                continue
            if request.own and task.origin.owner != owner:
                continue
            # A page that is full by number or by size is followed by another one only if there is a task for it.
            if len(response.tasks) == (request.page_size or _DEFAULT_PAGE) or size >= _LARGEST_PAGE_BYTES:
                response.next_page_token = self._tokens.make(last, filters)
                break
            made = task_to_proto(task, service=self._service, with_output=not request.omit_output)
            response.tasks.append(made)
            size += made.ByteSize()
            last = task.serial
        return response

    async def CancelTask(self, request: pb.CancelTaskRequest, context: _Context) -> pb.CancelTaskResponse:
        task = await self._board.cancel(request.task_id, by=caller_id())
        return pb.CancelTaskResponse(task=task_to_proto(task, service=self._service))

    async def Converse(  # type: ignore[override]
        self, request_iterator: AsyncIterator[pb.ConverseRequest], context: _Context
    ) -> None:
        async def send(response: pb.ConverseResponse) -> None:
            await context.write(response)

        conversation = Conversation(
            self._agent, self._board, send, service=self._service, caller=caller_id(), facts=call_context()
        )
        await conversation.run(request_iterator, self._draining)


def caller_id() -> str:
    """The SPIFFE id of the caller of the call at hand, or ""."""
    caller = call_context().caller
    return "" if caller is None else str(caller)
