"""Agents of the mesh, asked on behalf of who has come to the door. The agents keep the tasks; here nothing is kept."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar

import grpc

from agentmesh.agent.v1 import agent_pb2
from agentmesh.agent.v1 import agent_service_pb2 as pb
from agentmesh.agent.v1 import agent_service_pb2_grpc as pb_grpc
from mesh.access import Principal
from mesh.errors import MeshError, NotFound, Unavailable
from mesh.rpc import error_from_rpc
from mesh.rpc.context import USER_TOKEN
from mesh.runtime import Backoff
from services.gateway.channels import Channels
from services.gateway.web.a2a.gate import Asked, Gate
from services.gateway.web.a2a.states import has_ended

_TIMEOUT = 10.0
_MOST_INSTANCES = 64
_MOST_PAGES = 20
_PAGE = 1000
_MOST_BREAKS = 8
# How a stream breaks when the agent, or a proxy on the way, goes away.
_BROKEN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED)

_T = TypeVar("_T")

Sign = Callable[[Principal], str]


class Agents:
    """The way to agents. `sign` makes the token that tells on whose behalf a call is made."""

    def __init__(self, gate: Gate, channels: Channels, sign: Sign) -> None:
        self._gate = gate
        self._channels = channels
        self._sign = sign

    async def card(self, asked: Asked) -> agent_pb2.AgentCard:
        """The card of the agent, with all skills."""
        response = await self._ask(asked, "GetAgentCard", pb.GetAgentCardRequest())
        card: agent_pb2.AgentCard = response.card
        return card

    async def submit(self, asked: Asked, request: pb.SubmitTaskRequest) -> agent_pb2.Task:
        """Give a task, or an answer to one. Repeated when the agent goes away meanwhile: it knows the message id."""
        backoff = Backoff(0.05, 1.0)
        for attempt in range(_MOST_BREAKS):
            try:
                task: agent_pb2.Task = (await self._ask(asked, "SubmitTask", request)).task
                return task
            except Unavailable as err:
                if not request.message_id or attempt == _MOST_BREAKS - 1 or err.reason == "NO_HEALTHY_INSTANCE":
                    raise
            await asyncio.sleep(backoff.next())
        raise AssertionError("the last attempt returns or raises")

    async def get(self, asked: Asked, task_id: str, *, with_history: bool = True) -> agent_pb2.Task:
        """A task of the caller's; raises NotFound for one that somebody else has given, too."""
        response = await self._ask(asked, "GetTask", pb.GetTaskRequest(task_id=task_id, with_history=with_history))
        task: agent_pb2.Task = response.task
        if task.principal != str(asked.caller.principal):
            raise unknown_task(task_id)
        return task

    async def cancel(self, asked: Asked, task_id: str) -> agent_pb2.Task:
        """Stop a task; gives it as it ended."""
        task: agent_pb2.Task = (await self._ask(asked, "CancelTask", pb.CancelTaskRequest(task_id=task_id))).task
        return task

    async def own_tasks(self, asked: Asked, request: pb.ListTasksRequest) -> list[agent_pb2.Task]:
        """All tasks of the caller's that fit, of all instances, without output, in no order."""
        request.own, request.omit_output, request.page_size = True, True, _PAGE
        count = max(1, self._gate.instances(asked.agent) or 0)
        found: dict[str, agent_pb2.Task] = {}
        seen: set[str] = set()
        # Envoy spreads calls: with a few more of them than instances each is met, but for bad luck.
        for _ in range(1 if count == 1 else 4 * count + 4):
            instance, tasks = await self._list_one(asked, request)
            seen.add(instance)
            found.update((task.id, task) for task in tasks)
            if len(seen) >= count:
                break
        return list(found.values())

    async def _list_one(self, asked: Asked, request: pb.ListTasksRequest) -> tuple[str, list[agent_pb2.Task]]:
        first = await self._ask(asked, "ListTasks", request)
        tasks = list(first.tasks)
        token = first.next_page_token
        for _ in range(_MOST_PAGES):
            if not token:
                break
            more = pb.ListTasksRequest()
            more.CopyFrom(request)
            more.page_token = token
            page = await self._ask(asked, "ListTasks", more, is_rest=True)
            tasks += page.tasks
            token = page.next_page_token
        return first.instance, tasks

    async def watch(self, asked: Asked, task_id: str, after: int = 0) -> AsyncGenerator[agent_pb2.TaskUpdate, None]:
        """The updates of a task to its end; a broken stream is taken up again after the last one that came."""
        backoff = Backoff(0.05, 1.0)
        breaks = strangers = 0
        while True:
            is_alive = False
            error: MeshError = Unavailable(f"{asked.agent} ended the stream early.", service=asked.agent)
            try:
                async with aclosing(self._watch_once(asked, task_id, after)) as updates:
                    async for update in updates:
                        is_alive, after = True, update.sequence
                        yield update
                        if has_ended(update.state):
                            return
            except grpc.aio.AioRpcError as err:
                error = error_from_rpc(err)
                if error.reason == "TASK_OF_OTHER_INSTANCE" and strangers < _MOST_INSTANCES:
                    strangers += 1
                    await asyncio.sleep(0.01)
                    continue
                if err.code() not in _BROKEN:
                    raise error from err
            breaks = 0 if is_alive else breaks + 1
            if breaks >= _MOST_BREAKS:
                raise error
            if is_alive:
                backoff.reset()
            await asyncio.sleep(backoff.next())

    async def _watch_once(self, asked: Asked, task_id: str, after: int) -> AsyncGenerator[agent_pb2.TaskUpdate, None]:
        async with self._channels.use(asked.agent) as channel:
            stub: Any = pb_grpc.AgentServiceStub(channel)
            request = pb.WatchTaskRequest(task_id=task_id, after_sequence=after)
            call = stub.WatchTask(request, metadata=self._metadata(asked))
            try:
                async for response in call:
                    yield response.update
            finally:
                call.cancel()

    async def _ask(self, asked: Asked, method: str, request: Any, *, is_rest: bool = False) -> Any:
        """One answer; of another instance when the first says that the task is none of its own."""

        async def ask() -> Any:
            async with self._channels.use(asked.agent) as channel:
                stub = pb_grpc.AgentServiceStub(channel)
                return await getattr(stub, method)(request, timeout=_TIMEOUT, metadata=self._metadata(asked))

        return await _ask_instances(ask, also=("BAD_PAGE_TOKEN",) if is_rest else ())

    def _metadata(self, asked: Asked) -> tuple[tuple[str, str], ...]:
        # Signed anew: streams and retries last longer than the token that came with the request.
        principal = asked.caller.principal
        token = self._sign(replace(principal, roles=self._gate.with_roles(principal)))
        return (USER_TOKEN, token), ("x-correlation-id", asked.caller.correlation_id or "-")


async def _ask_instances(ask: Callable[[], Awaitable[_T]], *, also: tuple[str, ...]) -> _T:
    for attempt in range(_MOST_INSTANCES):
        try:
            return await ask()
        except grpc.aio.AioRpcError as err:
            error = error_from_rpc(err)
            if error.reason not in ("TASK_OF_OTHER_INSTANCE", *also) or attempt == _MOST_INSTANCES - 1:
                raise error from err
        await asyncio.sleep(0.01)
    raise AssertionError("the last attempt returns or raises")


def unknown_task(task_id: str) -> NotFound:
    """For a task that there is not, or that is somebody else's."""
    return NotFound(f"There is no task {task_id[:128]!r} of yours.", reason="UNKNOWN_TASK", field="id")
