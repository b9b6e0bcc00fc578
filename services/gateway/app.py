"""Wires the gateway."""

import os

from agentmesh.agent.v1 import agent_service_pb2
from agentmesh.mcp.v1 import mcp_bridge_service_pb2
from mesh.errors import InvalidInput
from mesh.rpc import ServerSettings, open_server
from mesh.runtime import Stop
from services.gateway.health_desk import HealthDesk
from services.gateway.help_desk import HelpDesk

# The contracts of the mesh that members serve.
_CONTRACTS = (
    agent_service_pb2.DESCRIPTOR.services_by_name["AgentService"].full_name,
    mcp_bridge_service_pb2.DESCRIPTOR.services_by_name["McpBridgeService"].full_name,
)


async def run(stop: Stop) -> None:
    """Serve until `stop` is set. Raises MeshError when MESH_LISTEN is not usable."""
    listen = os.environ.get("MESH_LISTEN") or ""
    if not listen:
        raise InvalidInput("It is not said where to listen.", field="MESH_LISTEN", fix="Start it with `meshctl up`.")
    settings = ServerSettings(service="gateway", listen=listen, described=_CONTRACTS)
    desk = HealthDesk()
    async with open_server(settings, [], generic_handlers=[HelpDesk()], health_of=desk.is_healthy) as server:
        await server.set_serving(True)
        await stop.wait()
