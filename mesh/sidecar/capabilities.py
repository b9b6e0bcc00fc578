"""What an application can do, asked of itself: an MCP server's tools, an agent's skills."""

import asyncio
from collections.abc import AsyncGenerator

import grpc

from agentmesh.agent.v1 import agent_service_pb2, agent_service_pb2_grpc
from agentmesh.mcp.v1 import mcp_bridge_service_pb2, mcp_bridge_service_pb2_grpc
from mesh.rpc import open_target
from mesh.runtime import Backoff
from mesh.telemetry import get_logger

_TIMEOUT = 10.0
_MOST_PAGES = 100
"""A server whose pages never end must not hold up its own start."""

_log = get_logger(__name__)


async def read_capabilities(kind: str, target: str) -> tuple[str, ...]:
    """The names of an MCP server's tools or an agent's skills, sorted; none for other kinds.

    What cannot be asked has none: the names are for discovery, and no reason to keep a service out of the mesh.
    """
    async with open_target(target) as channel:
        try:
            async with asyncio.timeout(_TIMEOUT):
                if kind == "mcp":
                    return await _read_tools(channel)
                if kind == "agent":
                    return await _read_skills(channel)
        except grpc.aio.AioRpcError as err:
            _log.warning("capabilities_unknown", kind=kind, code=err.code().name, error=err.details())
        except TimeoutError:
            _log.warning("capabilities_unknown", kind=kind, error=f"no answer within {_TIMEOUT:g} s")
    return ()


async def watch_capabilities(kind: str, target: str) -> AsyncGenerator[tuple[str, ...], None]:
    """The names anew, whenever an MCP server says that they have changed, or has come back; for ever.

    Close it when done (contextlib.aclosing): a stream to the server is open meanwhile.
    """
    backoff = Backoff(0.5, 10.0)
    while kind == "mcp":
        async with open_target(target) as channel:
            stub = mcp_bridge_service_pb2_grpc.McpBridgeServiceStub(channel)
            try:
                async for response in stub.Watch(mcp_bridge_service_pb2.WatchRequest()):
                    if response.WhichOneof("event") in {"ready", "tool_list_changed"}:
                        yield await _read_tools(channel)
                        backoff.reset()
            except grpc.aio.AioRpcError as err:
                _log.debug("watch_broken", code=err.code().name)
        await asyncio.sleep(backoff.next())


async def _read_tools(channel: grpc.aio.Channel) -> tuple[str, ...]:
    stub = mcp_bridge_service_pb2_grpc.McpBridgeServiceStub(channel)
    names: set[str] = set()
    page = ""
    for _ in range(_MOST_PAGES):
        request = mcp_bridge_service_pb2.ListToolsRequest(page_token=page)
        response = await stub.ListTools(request, timeout=_TIMEOUT)
        names.update(tool.name for tool in response.tools)
        page = response.next_page_token
        if not page:
            break
    else:
        _log.warning("capabilities_cut", pages=_MOST_PAGES)
    return tuple(sorted(names))


async def _read_skills(channel: grpc.aio.Channel) -> tuple[str, ...]:
    stub = agent_service_pb2_grpc.AgentServiceStub(channel)
    response = await stub.GetAgentCard(agent_service_pb2.GetAgentCardRequest(), timeout=_TIMEOUT)
    return tuple(sorted({skill.id for skill in response.card.skills}))
