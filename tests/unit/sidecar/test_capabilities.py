import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from agentmesh.agent.v1 import agent_pb2, agent_service_pb2, agent_service_pb2_grpc
from agentmesh.mcp.v1 import mcp_bridge_service_pb2 as mcp
from agentmesh.mcp.v1 import mcp_bridge_service_pb2_grpc as mcp_grpc
from mesh.sidecar import capabilities
from mesh.sidecar.capabilities import read_capabilities, watch_capabilities


class Bridge(mcp_grpc.McpBridgeServiceServicer):
    """Two tools on a page; tells of a change whenever `changes` gets something, None ends the stream."""

    def __init__(self, *tools: str) -> None:
        self.tools = tools
        self.changes: asyncio.Queue[Any] = asyncio.Queue()
        self.pages_never_end = False

    async def ListTools(self, request: Any, context: Any) -> Any:
        first = int(request.page_token or 0)
        response = mcp.ListToolsResponse()
        for name in self.tools[first : first + 2]:
            response.tools.add(name=name)
        if self.pages_never_end or first + 2 < len(self.tools):
            response.next_page_token = str(first + 2)
        return response

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        yield mcp.WatchResponse(ready={})
        while (event := await self.changes.get()) is not None:
            yield mcp.WatchResponse(**{event: {}})


class Agent(agent_service_pb2_grpc.AgentServiceServicer):
    async def GetAgentCard(self, request: Any, context: Any) -> Any:
        skills = [agent_pb2.Skill(id=name) for name in ("price", "hedge", "price")]
        return agent_service_pb2.GetAgentCardResponse(card=agent_pb2.AgentCard(skills=skills))


@asynccontextmanager
async def serving(path: Path, bridge: Bridge | None = None, agent: Agent | None = None) -> AsyncIterator[str]:
    server = grpc.aio.server()
    if bridge is not None:
        mcp_grpc.add_McpBridgeServiceServicer_to_server(bridge, server)
    if agent is not None:
        agent_service_pb2_grpc.add_AgentServiceServicer_to_server(agent, server)
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    try:
        yield f"unix:{path}"
    finally:
        await server.stop(0)


async def test_tools_of_all_pages_are_read(short_dir: Path) -> None:
    async with serving(short_dir / "s", Bridge("npv", "irr", "bond", "npv", "option")) as target:
        assert await read_capabilities("mcp", target) == ("bond", "irr", "npv", "option")


async def test_pages_that_never_end_are_cut(short_dir: Path, logs: list[Any]) -> None:
    bridge = Bridge("npv")
    bridge.pages_never_end = True
    async with serving(short_dir / "s", bridge) as target:
        assert await read_capabilities("mcp", target) == ("npv",)
    assert [line["event"] for line in logs] == ["capabilities_cut"]


async def test_skills_of_an_agent_are_read(short_dir: Path) -> None:
    async with serving(short_dir / "s", agent=Agent()) as target:
        assert await read_capabilities("agent", target) == ("hedge", "price")


@pytest.mark.parametrize("kind", ["service", "gateway"])
async def test_other_kinds_have_none(kind: str, logs: list[Any]) -> None:
    assert await read_capabilities(kind, "unix:/nowhere.sock") == ()
    assert [names async for names in watch_capabilities(kind, "unix:/nowhere.sock")] == []
    assert logs == []


@pytest.mark.parametrize("kind", ["mcp", "agent"])
async def test_what_cannot_be_asked_has_none(kind: str, short_dir: Path, logs: list[Any]) -> None:
    async with serving(short_dir / "s") as target:
        assert await read_capabilities(kind, target) == ()
    assert [(line["event"], line["code"]) for line in logs] == [("capabilities_unknown", "UNIMPLEMENTED")]


async def test_what_does_not_answer_has_none(short_dir: Path, logs: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "_TIMEOUT", 0.1)

    class Silent(Bridge):
        async def ListTools(self, request: Any, context: Any) -> Any:
            await asyncio.Event().wait()

    async with serving(short_dir / "s", Silent()) as target:
        assert await read_capabilities("mcp", target) == ()
    assert [line["event"] for line in logs] == ["capabilities_unknown"]


async def test_changes_of_tools_are_told_and_others_are_not(short_dir: Path) -> None:
    bridge = Bridge("npv")
    async with asyncio.timeout(10), serving(short_dir / "s", bridge) as target:
        async with aclosing(watch_capabilities("mcp", target)) as changes:
            assert await anext(changes) == ("npv",)
            bridge.tools = ("npv", "irr")
            bridge.changes.put_nowait("prompt_list_changed")
            bridge.changes.put_nowait("tool_list_changed")
            assert await anext(changes) == ("irr", "npv")


async def test_a_watch_that_ends_is_begun_anew(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "Backoff", lambda *_: capabilities_backoff())
    bridge = Bridge("npv")
    async with asyncio.timeout(10), serving(short_dir / "s", bridge) as target:
        async with aclosing(watch_capabilities("mcp", target)) as changes:
            assert await anext(changes) == ("npv",)
            bridge.tools = ("irr",)
            bridge.changes.put_nowait(None)
            assert await anext(changes) == ("irr",)


def capabilities_backoff() -> Any:
    class NoPause:
        def next(self) -> float:
            return 0.0

        def reset(self) -> None:
            return

    return NoPause()
