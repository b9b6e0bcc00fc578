"""What one operation reads, on behalf of one caller: each thing once, however often the query names it."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from agentmesh.agent.v1 import agent_pb2, agent_service_pb2
from agentmesh.config.v1 import config_pb2
from agentmesh.control.v1 import control_pb2
from agentmesh.mcp.v1 import mcp_pb2
from mesh.access import GATEWAY, Principal, Target
from mesh.errors import DeadlineExceeded
from services.gateway.knowledge import Knowledge
from services.gateway.viewer import Viewer
from services.gateway.web.caller import Caller
from services.gateway.web.events import EventHub
from services.gateway.web.graphql.members import Errand, Members
from services.gateway.web.graphql.streams import Streams

AGENT = "agentmesh.agent.v1.AgentService"
MCP = "agentmesh.mcp.v1.McpBridgeService"
REVISIONS = Target(GATEWAY, "agentmesh.gateway.v1.GatewayService/ListRevisions")
DOOR = Target(GATEWAY, "/graphql")

_LONGEST = 10.0
"""Seconds in which all of a query is found that is found at all."""
_AT_ONCE = 16

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Sources:
    """Where everything comes from. `sign` makes the token that tells services on whose behalf they are asked."""

    knowledge: Knowledge
    hub: EventHub
    members: Members
    streams: Streams
    sign: Callable[[Principal], str]


class Reader:
    """Made by `open_reader`."""

    def __init__(self, sources: Sources, caller: Caller, viewer: Viewer) -> None:
        self.sources = sources
        self.caller = caller
        self.viewer = viewer
        self._turn = asyncio.Semaphore(_AT_ONCE)
        self._asked: dict[tuple[Any, ...], asyncio.Future[Any]] = {}
        self._ends_at = 0.0
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget what was read: the next item of a subscription is to be of now."""
        self._give_up()
        self._asked = {}
        self._ends_at = asyncio.get_running_loop().time() + _LONGEST

    @property
    def owner(self) -> str:
        """Who reads; of those without a name the address."""
        principal = self.caller.principal
        return f"client:{self.caller.client}" if principal.kind == "anonymous" else str(principal)

    def token(self) -> str:
        """For services: fresh, as the one that came may have ended on a connection that is open for long."""
        return self.sources.sign(self.viewer.principal())

    async def card(self, agent: control_pb2.Service) -> agent_pb2.AgentCard:
        """An agent's card."""
        self.viewer.check(Target(agent.name, f"{AGENT}/GetAgentCard"))
        return await self._once(("card", agent.name), lambda errand: self.sources.members.card(agent, errand))

    async def tools(self, server: control_pb2.Service) -> Sequence[mcp_pb2.Tool]:
        """The tools of an MCP server, sorted by name."""
        self.viewer.check(Target(server.name, f"{MCP}/ListTools"))
        return await self._once(("tools", server.name), lambda errand: self.sources.members.tools(server, errand))

    async def tasks(
        self, agent: str, request: agent_service_pb2.ListTasksRequest
    ) -> agent_service_pb2.ListTasksResponse:
        """A page of tasks of an agent."""
        self.viewer.check(Target(agent, f"{AGENT}/ListTasks"))
        key = ("tasks", agent, request.SerializeToString(deterministic=True))
        return await self._once(key, lambda errand: self.sources.members.tasks(agent, request, errand))

    async def revisions(self, count: int, before: int = 0) -> Sequence[config_pb2.Revision]:
        """Revisions of the mesh document, newest first, below one of them; 0 for all."""
        self.viewer.check(REVISIONS)
        key = ("revisions", count, before)
        return await self._once(key, lambda errand: self.sources.members.revisions(count, before, errand))

    async def close(self) -> None:
        """Give up what nobody waits for any more."""
        self._give_up()
        await asyncio.gather(*self._asked.values(), return_exceptions=True)

    def _give_up(self) -> None:
        for future in self._asked.values():
            future.cancel()

    async def _once(self, key: tuple[Any, ...], ask: Callable[[Errand], Awaitable[_T]]) -> _T:
        if key not in self._asked:
            self._asked[key] = asyncio.ensure_future(self._in_turn(ask))
        # Shielded: who asks first may be given up while others wait.
        found: _T = await asyncio.shield(self._asked[key])
        return found

    async def _in_turn(self, ask: Callable[[Errand], Awaitable[_T]]) -> _T:
        errand = Errand(self.token(), self._ends_at)
        try:
            async with asyncio.timeout_at(self._ends_at), self._turn:
                return await ask(errand)
        except TimeoutError as err:
            raise DeadlineExceeded("The query took too long.", fix="Ask for less at once.") from err


@asynccontextmanager
async def open_reader(sources: Sources, caller: Caller, viewer: Viewer) -> AsyncIterator[Reader]:
    """Read while the block runs. Raises when the caller may not query any more, on a connection that is open longer."""
    viewer.check(DOOR)
    reader = Reader(sources, caller, viewer)
    try:
        yield reader
    finally:
        await reader.close()


def json_of(data: bytes) -> Any:
    """Bytes of JSON as values; of what is none a base64 text."""
    if not data:
        return None
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return base64.b64encode(data).decode()
