"""The operations of A2A, as calls of agentmesh.agent.v1. All three bindings of the SDK end here.

JSON-RPC, HTTP+JSON, gRPC (a2a-sdk) ──> MeshHandler ──> Agents ──> the agent, which keeps the tasks
"""

import asyncio
import functools
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from a2a.server.context import ServerCallContext
from a2a.server.request_handlers.request_handler import RequestHandler
from a2a.types import a2a_pb2 as a2a
from a2a.utils import errors as sdk
from a2a.utils.proto_utils import validate_proto_required_fields
from a2a.utils.task import apply_history_length, validate_history_length

from agentmesh.agent.v1 import agent_pb2
from agentmesh.agent.v1 import agent_service_pb2 as pb
from mesh.errors import InvalidInput, MeshError
from services.gateway.web.a2a.agents import Agents
from services.gateway.web.a2a.errors import to_a2a
from services.gateway.web.a2a.gate import Asked, Gate
from services.gateway.web.a2a.listing import page_size_of, take_page
from services.gateway.web.a2a.push import PushOperations
from services.gateway.web.a2a.states import has_ended, is_waiting
from services.gateway.web.a2a.submission import Submission
from services.gateway.web.a2a.tasks import (
    Artifacts,
    Event,
    events_of,
    state_to_mesh,
    task_from_mesh,
)
from services.gateway.web.a2a.until import until

_P = ParamSpec("_P")
_T = TypeVar("_T")

BuildCard = Callable[[Asked], Awaitable[a2a.AgentCard]]


def _translated(
    method: Callable[Concatenate["MeshHandler", _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate["MeshHandler", _P], Coroutine[Any, Any, _T]]:
    """Check that required fields are there, and tell errors of the mesh as those of A2A."""

    @functools.wraps(method)
    async def translated(self: "MeshHandler", *args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            validate_proto_required_fields(cast(Any, args[0]))
            return await method(self, *args, **kwargs)
        except MeshError as err:
            raise to_a2a(err) from err

    # What functools.wraps makes has a type of its own.
    return translated  # type: ignore[return-value]


class MeshHandler(RequestHandler):
    """Serves all agents: the context of a call says which.

    `extended_card` builds the card for one caller; streams end when `ending` is set.
    """

    def __init__(
        self,
        gate: Gate,
        agents: Agents,
        submission: Submission,
        push: PushOperations,
        extended_card: BuildCard,
        ending: asyncio.Event,
    ) -> None:
        self._gate = gate
        self._agents = agents
        self._submission = submission
        self._push = push
        self._extended_card = extended_card
        self._ending = ending

    @_translated
    async def on_message_send(self, params: a2a.SendMessageRequest, context: ServerCallContext) -> a2a.Task:
        """Give a task or an answer, and wait until the agent is done with it unless that is not wanted."""
        asked = asked_of(context)
        configuration = params.configuration
        validate_history_length(configuration)
        task = await self._submission.submit(asked, params)
        if not configuration.return_immediately:
            await self._wait(asked, task)
        full = await self._agents.get(asked, task.id)
        return apply_history_length(task_from_mesh(full), configuration)

    async def on_message_send_stream(
        self, params: a2a.SendMessageRequest, context: ServerCallContext
    ) -> AsyncGenerator[Any, None]:
        """Give a task or an answer, and tell what becomes of it."""
        try:
            validate_proto_required_fields(params)
            validate_history_length(params.configuration)
            asked = asked_of(context)
            task = await self._submission.submit(asked, params)
            async with aclosing(self._follow(asked, task, params.configuration, ends_waiting=True)) as events:
                async for event in events:
                    yield event
        except MeshError as err:
            raise to_a2a(err) from err

    async def on_subscribe_to_task(
        self, params: a2a.SubscribeToTaskRequest, context: ServerCallContext
    ) -> AsyncGenerator[Any, None]:
        """Tell what becomes of a task from now on."""
        try:
            validate_proto_required_fields(params)
            asked = asked_of(context)
            task = await self._agents.get(asked, params.id)
            self._gate.check_own(asked, "WatchTask", task.skill_id)
            if has_ended(task.state):
                raise sdk.UnsupportedOperationError("The task has ended: get it with GetTask.")
            async with aclosing(self._follow(asked, task)) as events:
                async for event in events:
                    yield event
        except MeshError as err:
            raise to_a2a(err) from err

    @_translated
    async def on_get_task(self, params: a2a.GetTaskRequest, context: ServerCallContext) -> a2a.Task:
        """A task as it stands."""
        asked = asked_of(context)
        validate_history_length(params)
        task = await self._agents.get(asked, params.id)
        self._gate.check_own(asked, "GetTask", task.skill_id)
        return apply_history_length(task_from_mesh(task), params)

    @_translated
    async def on_list_tasks(self, params: a2a.ListTasksRequest, context: ServerCallContext) -> a2a.ListTasksResponse:
        """A page of the caller's tasks, those that have changed last first."""
        asked = asked_of(context)
        validate_history_length(params)
        size = page_size_of(params)
        request = pb.ListTasksRequest(context_id=params.context_id)
        if params.status:
            state = state_to_mesh(params.status)
            if not state:
                raise InvalidInput("There is no such state.", field="status", fix="Send a name of TaskState.")
            request.states.append(state)
        tasks = self._gate.allowed(asked, await self._agents.own_tasks(asked, request))
        page, token, total = take_page(tasks, params)
        needs_more = params.include_artifacts or params.history_length > 0
        shown = [
            apply_history_length(
                task_from_mesh(
                    await self._agents.get(asked, task.id, with_history=params.history_length > 0)
                    if needs_more
                    else task,
                    with_output=params.include_artifacts,
                ),
                params,
            )
            for task in page
        ]
        return a2a.ListTasksResponse(tasks=shown, next_page_token=token, page_size=size, total_size=total)

    @_translated
    async def on_cancel_task(self, params: a2a.CancelTaskRequest, context: ServerCallContext) -> a2a.Task:
        """Stop a task."""
        asked = asked_of(context)
        task = await self._agents.get(asked, params.id, with_history=False)
        self._gate.check_own(asked, "CancelTask", task.skill_id)
        if has_ended(task.state):
            raise sdk.TaskNotCancelableError("The task has ended already.")
        task = await self._agents.cancel(asked, params.id)
        if task.state != agent_pb2.TASK_STATE_CANCELED:
            raise sdk.TaskNotCancelableError("The task has ended before it could be cancelled.")
        return task_from_mesh(task)

    async def on_get_extended_agent_card(
        self, params: a2a.GetExtendedAgentCardRequest, context: ServerCallContext
    ) -> a2a.AgentCard:
        """The card with all that this caller may call."""
        try:
            asked = asked_of(context)
            return await self._extended_card(asked)
        except MeshError as err:
            raise to_a2a(err) from err

    @_translated
    async def on_create_task_push_notification_config(
        self, params: a2a.TaskPushNotificationConfig, context: ServerCallContext
    ) -> a2a.TaskPushNotificationConfig:
        """Send the changes of a task to an address."""
        return await self._push.create(asked_of(context), params)

    @_translated
    async def on_get_task_push_notification_config(
        self, params: a2a.GetTaskPushNotificationConfigRequest, context: ServerCallContext
    ) -> a2a.TaskPushNotificationConfig:
        """One address of a task."""
        return await self._push.get(asked_of(context), params)

    @_translated
    async def on_list_task_push_notification_configs(
        self, params: a2a.ListTaskPushNotificationConfigsRequest, context: ServerCallContext
    ) -> a2a.ListTaskPushNotificationConfigsResponse:
        """All addresses of a task."""
        return await self._push.list(asked_of(context), params)

    @_translated
    async def on_delete_task_push_notification_config(
        self, params: a2a.DeleteTaskPushNotificationConfigRequest, context: ServerCallContext
    ) -> None:
        """Send nothing to an address any more."""
        await self._push.delete(asked_of(context), params)

    async def _wait(self, asked: Asked, task: agent_pb2.Task) -> None:
        """Until the task has ended, or waits for its submitter."""
        if has_ended(task.state) or is_waiting(task.state):
            return
        async with aclosing(self._agents.watch(asked, task.id, task.sequence)) as updates:
            async for update in updates:
                if has_ended(update.state) or is_waiting(update.state):
                    return

    async def _follow(
        self,
        asked: Asked,
        task: agent_pb2.Task,
        configuration: a2a.SendMessageConfiguration | None = None,
        *,
        ends_waiting: bool = False,
    ) -> AsyncGenerator[Event, None]:
        """The task, then its changes to its end; with `ends_waiting` only until it waits for its submitter."""
        yield apply_history_length(task_from_mesh(task), configuration)
        if has_ended(task.state) or (ends_waiting and is_waiting(task.state)):
            return
        artifacts = Artifacts(task)
        for _ in artifacts.take(task.output):
            # Counted: what comes goes on where the task has stopped.
            pass
        watching = self._agents.watch(asked, task.id, task.sequence)
        async with aclosing(until(self._ending, watching)) as updates:
            async for update in updates:
                for event in events_of(task, update, artifacts):
                    yield event
                if ends_waiting and is_waiting(update.state):
                    return


def asked_of(context: ServerCallContext) -> Asked:
    """What the door has put into the context of a call."""
    asked = context.state["asked"]
    assert isinstance(asked, Asked)
    return asked
