"""What the registry hears of a member, and what it cannot write down."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from agentmesh.mcp.v1 import mcp_bridge_service_pb2 as mcp
from agentmesh.mcp.v1 import mcp_bridge_service_pb2_grpc as mcp_grpc
from mesh.discovery import registration


class Bridge(mcp_grpc.McpBridgeServiceServicer):
    def __init__(self) -> None:
        self.tools = ["npv"]
        self.changes: asyncio.Queue[None] = asyncio.Queue()

    async def ListTools(self, request: Any, context: Any) -> Any:
        response = mcp.ListToolsResponse()
        for name in self.tools:
            response.tools.add(name=name)
        return response

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        yield mcp.WatchResponse(ready={})
        while True:
            await self.changes.get()
            yield mcp.WatchResponse(tool_list_changed={})

    def change(self, *tools: str) -> None:
        self.tools = list(tools)
        self.changes.put_nowait(None)


@pytest.fixture
async def bridge(short_dir: Path) -> AsyncIterator[Bridge]:
    servicer, server, states = Bridge(), grpc.aio.server(), health.aio.HealthServicer()
    mcp_grpc.add_McpBridgeServiceServicer_to_server(servicer, server)
    await states.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(states, server)
    server.add_insecure_port(f"unix:{short_dir}/tools.sock")
    await server.start()
    yield servicer
    await server.stop(0)


@pytest.fixture
def open_tools(control_plane: Any, short_dir: Path, bridge: Bridge) -> Any:
    listen = f"unix:{short_dir}/tools.sock"
    return lambda: control_plane.open(
        "tools", kind="mcp", instance="tools-1", command=None, app_listen=listen, deregister_wait=0.0
    )


def registered(control_plane: Any) -> tuple[str, ...] | None:
    """The capabilities that the registry knows; None when it does not know the instance."""
    found = control_plane.registry.services().get("tools")
    return found[0].capabilities if found else None


async def test_tools_are_registered_and_so_are_their_changes(
    control_plane: Any, open_tools: Any, bridge: Bridge, eventually: Any
) -> None:
    async with open_tools() as member:
        assert registered(control_plane) == ("npv",)
        bridge.change("npv", "irr")
        await eventually(lambda: registered(control_plane) == ("irr", "npv"))
        assert member.instance.capabilities == ("irr", "npv")
    assert registered(control_plane) is None


async def test_a_name_that_cannot_be_written_down_keeps_no_service_out(
    control_plane: Any, open_tools: Any, bridge: Bridge
) -> None:
    control_plane.registry.refused_capability = "npv"
    async with open_tools():
        assert registered(control_plane) == ()


async def test_a_change_that_cannot_be_written_down_leaves_what_was(
    control_plane: Any, open_tools: Any, bridge: Bridge, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration, "POLL", 0.02)
    async with open_tools():
        control_plane.registry.refused_capability = "a,b"
        bridge.change("npv", "a,b")
        written = control_plane.registry.events.count("register tools-1")
        await eventually(lambda: control_plane.registry.events.count("register tools-1") > written)
        assert registered(control_plane) == ("npv",)
        # And it is still registered anew when the registry has lost it.
        control_plane.registry.lose("tools-1")
        await eventually(lambda: registered(control_plane) == ("npv",))


async def test_a_registry_that_is_away_holds_up_no_start(control_plane: Any, open_tools: Any, eventually: Any) -> None:
    control_plane.registry.is_away = True
    async with open_tools():
        assert registered(control_plane) is None
        control_plane.registry.is_away = False
        await eventually(lambda: registered(control_plane) == ("npv",))
