"""Asks agents and bridges for what a query wants to know of them: with deadlines, few at a time, once per query."""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import grpc

from agentmesh.agent.v1 import agent_pb2, agent_service_pb2, agent_service_pb2_grpc
from agentmesh.gateway.v1 import gateway_service_pb2
from agentmesh.mcp.v1 import mcp_bridge_service_pb2, mcp_bridge_service_pb2_grpc, mcp_pb2
from mesh.access import Target, decide
from mesh.errors import PermissionDenied
from mesh.rpc import error_from_rpc, open_channel
from mesh.rpc.context import USER_TOKEN
from services.gateway.knowledge import Knowledge
from services.gateway.viewer import Viewer
from services.gateway.web.caller import Caller

_TIMEOUT = 5.0
_AT_ONCE = 16
_MOST_PAGES = 20

_AGENT = "agentmesh.agent.v1.AgentService"
_MCP = "agentmesh.mcp.v1.McpBridgeService"

_T = TypeVar("_T")


class Reader:
    """Reads on behalf of one caller, for one query. Close it at the end."""

    def __init__(self, knowledge: Knowledge, gateway: Any, caller: Caller) -> None:
        self.knowledge = knowledge
        self.caller = caller
        self._gateway = gateway
        self._stack = AsyncExitStack()
        self._turn = asyncio.Semaphore(_AT_ONCE)
        self._known: dict[tuple[Any, ...], asyncio.Future[Any]] = {}
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def close(self) -> None:
        """Close its channels."""
        for future in self._known.values():
            future.cancel()
        await self._stack.aclose()

    def services(self, kind: str | None = None) -> list[Any]:
        """The services that the caller may see, sorted by name."""
        visible = Viewer(self.knowledge, self.caller.principal).services()
        return [service for service in visible if kind is None or service.kind == kind]

    async def card(self, agent: str) -> agent_pb2.AgentCard:
        """An agent's card."""
        self._check(agent, f"{_AGENT}/GetAgentCard")

        async def ask() -> agent_pb2.AgentCard:
            stub: Any = agent_service_pb2_grpc.AgentServiceStub(await self._channel(agent))
            response = await stub.GetAgentCard(agent_service_pb2.GetAgentCardRequest(), **self._how())
            card: agent_pb2.AgentCard = response.card
            return card

        return await self._once(("card", agent), ask)

    async def tools(self, server: str) -> list[mcp_pb2.Tool]:
        """All tools of an MCP server, in its order."""
        self._check(server, f"{_MCP}/ListTools")

        async def ask() -> list[mcp_pb2.Tool]:
            stub: Any = mcp_bridge_service_pb2_grpc.McpBridgeServiceStub(await self._channel(server))
            found: list[mcp_pb2.Tool] = []
            token = ""
            for _ in range(_MOST_PAGES):
                request = mcp_bridge_service_pb2.ListToolsRequest(page_token=token)
                response = await stub.ListTools(request, **self._how())
                found += response.tools
                token = response.next_page_token
                if not token:
                    break
            return found

        return await self._once(("tools", server), ask)

    async def tasks(self, agent: str, count: int) -> list[agent_pb2.Task]:
        """The newest tasks of an agent."""
        self._check(agent, f"{_AGENT}/ListTasks")

        async def ask() -> list[agent_pb2.Task]:
            stub: Any = agent_service_pb2_grpc.AgentServiceStub(await self._channel(agent))
            request = agent_service_pb2.ListTasksRequest(page_size=count)
            return list((await stub.ListTasks(request, **self._how())).tasks)

        return await self._once(("tasks", agent, count), ask)

    async def revisions(self, count: int, before: int) -> list[Any]:
        """The newest revisions of the mesh document below one of them, 0 for all."""
        self._check("gateway", "/graphql")

        async def ask() -> list[Any]:
            request = gateway_service_pb2.ListRevisionsRequest(page_size=count, before=before)
            return list((await self._gateway.ListRevisions(request, timeout=_TIMEOUT)).revisions)

        return await self._once(("revisions", count, before), ask)

    def _check(self, service: str, method: str) -> None:
        view = self.knowledge.view
        if view is None:
            raise PermissionDenied("The gateway does not know yet who may call what.")
        decision = decide(view.rules, self.caller.principal, Target(service, method))
        if not decision.is_allowed:
            raise PermissionDenied(decision.summary, reason=decision.reason)

    def _how(self) -> dict[str, Any]:
        token = ((USER_TOKEN, self.caller.token),) if self.caller.token else ()
        return {"timeout": _TIMEOUT, "metadata": (*token, ("x-correlation-id", self.caller.correlation_id or "-"))}

    async def _channel(self, service: str) -> grpc.aio.Channel:
        if service not in self._channels:
            self._channels[service] = await self._stack.enter_async_context(open_channel(service))
        return self._channels[service]

    async def _once(self, key: tuple[Any, ...], ask: Callable[[], Awaitable[_T]]) -> _T:
        """The answer to a question, which is asked once however often a query wants to know it."""
        if key not in self._known:
            self._known[key] = asyncio.ensure_future(self._in_turn(ask))
        found: _T = await self._known[key]
        return found

    async def _in_turn(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        async with self._turn:
            try:
                return await ask()
            except grpc.aio.AioRpcError as err:
                raise error_from_rpc(err) from err


def json_of(data: bytes) -> Any:
    """Bytes of JSON as values; of what is none a base64 text."""
    if not data:
        return None
    try:
        return json.loads(data)
    except ValueError:
        return base64.b64encode(data).decode()
