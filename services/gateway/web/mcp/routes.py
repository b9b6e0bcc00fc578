"""Wires the doors."""

from starlette.routing import BaseRoute, Route
from starlette.types import Scope

from mesh.errors import NotFound
from services.gateway.channels import Channels
from services.gateway.guard.notes import Notes
from services.gateway.knowledge import Knowledge
from services.gateway.limits import RateLimits
from services.gateway.web.mcp.backend import Backend
from services.gateway.web.mcp.bridges import Bridges
from services.gateway.web.mcp.door import Door
from services.gateway.web.mcp.handshake import HandshakeHost
from services.gateway.web.mcp.live import LiveSessions
from services.gateway.web.mcp.modern import ModernHost
from services.gateway.web.mcp.one_server import OneServer
from services.gateway.web.mcp.policy import Policy
from services.gateway.web.mcp.sessions import Sealer, Sessions
from services.gateway.web.mcp.waiting import WaitingRoom


def mcp_routes(knowledge: Knowledge, channels: Channels, limits: RateLimits, notes: Notes) -> list[BaseRoute]:
    """The routes of MCP."""
    sealer = Sealer(lambda: knowledge.access.sealing_keys)
    policy = Policy(lambda: knowledge.view, limits, notes)
    bridges = Bridges(channels)
    modern = ModernHost(WaitingRoom(sealer))
    handshake = HandshakeHost(Sessions(sealer), LiveSessions())
    servers: dict[str, OneServer] = {}

    def find_server(scope: Scope) -> tuple[Backend, str]:
        name = scope["path_params"]["name"]
        if name not in servers:
            if not any(service.name == name and service.kind == "mcp" for service in knowledge.mesh.services):
                raise NotFound(
                    f"There is no MCP server {name[:64]!r}.", field="path", fix="`meshctl status` lists them."
                )
            servers[name] = OneServer(name, bridges, policy, sealer)
        return servers[name], f"/servers/{name}/mcp"

    def origins() -> tuple[str, ...]:
        return tuple(knowledge.view.edge.cors.origins) if knowledge.view is not None else ()

    one = Door(find_server, modern, handshake, origins)
    return [Route("/servers/{name}/mcp", one)]
