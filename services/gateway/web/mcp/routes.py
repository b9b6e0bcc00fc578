"""Wires the doors."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.routing import BaseRoute, Route
from starlette.types import Scope

from mesh.errors import InvalidInput, NotFound
from mesh.runtime import open_background
from services.gateway.channels import Channels
from services.gateway.federation import Source
from services.gateway.federation.shelves import Shelves, open_shelves
from services.gateway.guard.admission import Admission
from services.gateway.guard.notes import Notes
from services.gateway.knowledge import Knowledge
from services.gateway.limits import RateLimits
from services.gateway.tools import Governor, Guardrails
from services.gateway.web.a2a.agents import Agents
from services.gateway.web.a2a.gate import Gate
from services.gateway.web.entrance import Entrance
from services.gateway.web.mcp.agent_tools import AgentTools
from services.gateway.web.mcp.all_servers import AllServers
from services.gateway.web.mcp.backend import Backend
from services.gateway.web.mcp.bridges import Bridges
from services.gateway.web.mcp.door import Door
from services.gateway.web.mcp.handshake import HandshakeHost
from services.gateway.web.mcp.live import LiveSessions
from services.gateway.web.mcp.modern import ModernHost
from services.gateway.web.mcp.one_server import OneServer
from services.gateway.web.mcp.policy import Policy
from services.gateway.web.mcp.sessions import Sealer, Sessions
from services.gateway.web.mcp.sources import AgentSource, BridgeSource
from services.gateway.web.mcp.waiting import WaitingRoom

_KINDS = ("mcp", "agent")
_ALL = "/mcp"


@asynccontextmanager
async def open_mcp(
    knowledge: Knowledge, channels: Channels, limits: RateLimits, notes: Notes, admission: Admission
) -> AsyncIterator[list[BaseRoute]]:
    """The routes of MCP while the block runs; shelves are kept, and all that runs is given up at its end."""
    sealer = Sealer(lambda: knowledge.access.sealing_keys)
    policy = Policy(lambda: knowledge.view, limits, notes)
    bridges = Bridges(channels)
    governor = Governor(lambda: knowledge.view.tools if knowledge.view is not None else None, Guardrails(channels))
    servers: dict[str, OneServer] = {}

    def make_source(name: str, kind: str) -> Source:
        if kind == "agent":
            return AgentSource(name, channels)
        return BridgeSource(name, bridges, sealer.digest("shelf", name))

    def origins() -> tuple[str, ...]:
        return tuple(knowledge.view.edge.cors.origins) if knowledge.view is not None else ()

    entrance = Entrance(admission, limits)
    waiting, live = WaitingRoom(sealer), LiveSessions()
    modern, handshake = ModernHost(waiting), HandshakeHost(Sessions(sealer), live)
    gate = Gate(knowledge, notes.note)
    agent_tools = AgentTools(gate, Agents(gate, channels, admission.sign), governor)
    async with open_shelves(make_source) as shelves:

        def find_server(name: str) -> OneServer:
            if name not in servers:
                servers[name] = OneServer(name, bridges, policy, governor, sealer, lambda: shelves.find(name))
            return servers[name]

        def server_at(scope: Scope) -> tuple[Backend, str]:
            name = scope["path_params"]["name"]
            if not any(service.name == name and service.kind == "mcp" for service in knowledge.mesh.services):
                raise NotFound(
                    f"There is no MCP server {name[:64]!r}.", field="path", fix="`meshctl status` lists them."
                )
            return find_server(name), f"/servers/{name}/mcp"

        backends = {
            searches: AllServers(
                shelves, policy, governor, find_server, agent_tools, knowledge.watch, searches=searches
            )
            for searches in (False, True)
        }

        def all_at(scope: Scope) -> tuple[Backend, str]:
            match scope["query_string"]:
                case b"" | b"tools=all":
                    return backends[False], _ALL
                case b"tools=search":
                    return backends[True], f"{_ALL}?tools=search"
            raise InvalidInput("The query says nothing.", field="query", fix="Write ?tools=search, or nothing.")

        async with open_background(_follow(knowledge, shelves)):
            try:
                yield [
                    Route("/servers/{name}/mcp", Door(server_at, modern, handshake, entrance, origins)),
                    Route(_ALL, Door(all_at, modern, handshake, entrance, origins)),
                ]
            finally:
                waiting.close()
                live.close()


async def _follow(knowledge: Knowledge, shelves: Shelves) -> None:
    async for _ in knowledge.watch():
        shelves.follow(
            (service.name, service.kind, sum(instance.healthy for instance in service.instances))
            for service in knowledge.mesh.services
            if service.kind in _KINDS
        )
