"""Asks agents and bridges, through the own sidecar: with deadlines, a bounded number at a time.

Cards and lists of tools are kept for a moment: they hardly change, and pages that poll ask for them again and again.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc

from agentmesh.agent.v1 import agent_pb2, agent_service_pb2, agent_service_pb2_grpc
from agentmesh.config.v1 import config_pb2
from agentmesh.control.v1 import control_pb2
from agentmesh.gateway.v1 import gateway_service_pb2
from agentmesh.mcp.v1 import mcp_bridge_service_pb2, mcp_bridge_service_pb2_grpc, mcp_pb2
from mesh.errors import DeadlineExceeded, MeshError, ResourceExhausted, Unavailable
from mesh.rpc import error_from_rpc
from mesh.rpc.context import USER_TOKEN
from services.gateway.channels import Channels

TIMEOUT = 5.0
"""Seconds for one call."""
_AT_ONCE = 64
_KEPT_SECONDS = 5.0
_MOST_KEPT = 64
_MOST_PAGES = 20

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Errand:
    """On whose behalf is asked, and until when on the loop's clock."""

    token: str
    ends_at: float

    def how(self) -> dict[str, Any]:
        """What goes with a call."""
        left = self.ends_at - asyncio.get_running_loop().time()
        metadata = ((USER_TOKEN, self.token),) if self.token else ()
        return {"timeout": max(min(TIMEOUT, left), 0.001), "metadata": metadata}


class Members:
    """Shared by all queries. Who may ask what has been decided before: what is kept is for all."""

    def __init__(self, channels: Channels, gateway: Any, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._channels = channels
        self._gateway = gateway
        self._clock = clock
        self._turn = asyncio.Semaphore(_AT_ONCE)
        self._kept: OrderedDict[tuple[Any, ...], tuple[float, Any]] = OrderedDict()

    async def card(self, agent: control_pb2.Service, errand: Errand) -> agent_pb2.AgentCard:
        """An agent's card."""

        async def ask() -> agent_pb2.AgentCard:
            async with self._agent(agent.name) as stub:
                response = await stub.GetAgentCard(agent_service_pb2.GetAgentCardRequest(), **errand.how())
                card: agent_pb2.AgentCard = response.card
                return card

        return await self._remembered(("card", agent.name, _marks(agent)), ask)

    async def tools(self, server: control_pb2.Service, errand: Errand) -> Sequence[mcp_pb2.Tool]:
        """The tools of an MCP server, sorted by name."""

        async def ask() -> list[mcp_pb2.Tool]:
            found: list[mcp_pb2.Tool] = []
            token = ""
            async with self._called(server.name) as channel:
                stub: Any = mcp_bridge_service_pb2_grpc.McpBridgeServiceStub(channel)
                for _ in range(_MOST_PAGES):
                    request = mcp_bridge_service_pb2.ListToolsRequest(page_token=token)
                    response = await stub.ListTools(request, **errand.how())
                    found += response.tools
                    token = response.next_page_token
                    if not token:
                        break
            return sorted(found, key=lambda tool: tool.name)

        return await self._remembered(("tools", server.name, _marks(server)), ask)

    async def tasks(
        self, agent: str, request: agent_service_pb2.ListTasksRequest, errand: Errand
    ) -> agent_service_pb2.ListTasksResponse:
        """A page of tasks of an agent, newest first."""
        async with self._agent(agent) as stub:
            response: agent_service_pb2.ListTasksResponse = await stub.ListTasks(request, **errand.how())
            return response

    async def revisions(self, count: int, before: int, errand: Errand) -> Sequence[config_pb2.Revision]:
        """The newest revisions of the mesh document below one of them, 0 for all."""
        request = gateway_service_pb2.ListRevisionsRequest(page_size=count, before=before)
        try:
            response = await self._gateway.ListRevisions(request, timeout=errand.how()["timeout"])
        except grpc.aio.AioRpcError as err:
            raise error_of("the control plane", err) from err
        return tuple(response.revisions)

    @asynccontextmanager
    async def watch_task(
        self, agent: str, request: agent_service_pb2.WatchTaskRequest, token: str
    ) -> AsyncIterator[AsyncIterator[agent_service_pb2.WatchTaskResponse]]:
        """The updates of a task, which raise grpc.aio.AioRpcError. Not bounded in number: who watches is counted."""
        async with self._channels.use(agent) as channel:
            stub: Any = agent_service_pb2_grpc.AgentServiceStub(channel)
            call = stub.WatchTask(request, metadata=((USER_TOKEN, token),) if token else ())
            try:
                yield call
            finally:
                call.cancel()

    @asynccontextmanager
    async def _agent(self, agent: str) -> AsyncIterator[Any]:
        async with self._called(agent) as channel:
            yield agent_service_pb2_grpc.AgentServiceStub(channel)

    @asynccontextmanager
    async def _called(self, service: str) -> AsyncIterator[grpc.aio.Channel]:
        async with self._turn, self._channels.use(service) as channel:
            try:
                yield channel
            except grpc.aio.AioRpcError as err:
                raise error_of(service, err) from err

    async def _remembered(self, key: tuple[Any, ...], ask: Callable[[], Awaitable[_T]]) -> _T:
        kept = self._kept.get(key)
        if kept is not None and self._clock() < kept[0]:
            known: _T = kept[1]
            return known
        found = await ask()
        self._kept[key] = (self._clock() + _KEPT_SECONDS, found)
        self._kept.move_to_end(key)
        if len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)
        return found


def error_of(service: str, error: grpc.aio.AioRpcError) -> MeshError:
    """What a client is told of a call that has failed: the words of services, but not those of proxies and sockets."""
    made = error_from_rpc(error)
    if made.service:
        return made
    if isinstance(made, Unavailable | DeadlineExceeded | ResourceExhausted):
        return type(made)(f"There is no answer from {service} at the moment.", service=service, fix="Try again.")
    return type(made)(f"There is no answer from {service}: {error.code().name}.", service=service)


def _marks(service: control_pb2.Service) -> tuple[tuple[str, str], ...]:
    """Changes when copies of a service come and go."""
    return tuple((instance.id, instance.version) for instance in service.instances)
