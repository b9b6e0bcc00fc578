"""Ask: requests of the modern era to servers of either era."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=["modern", "handshake", "modern-http", "handshake-http"]
)
async def bridge(request: Any, open_bridge: Any, server_command: Any, http_server: Any) -> AsyncIterator[Any]:
    legacy = ["--legacy"] if "handshake" in request.param else []
    if "http" in request.param:
        async with open_bridge(url=http_server(*legacy)) as bridge:
            yield bridge
    else:
        async with open_bridge(server_command("high_level_server", *legacy)) as bridge:
            yield bridge


async def test_a_tool_is_called(bridge: Any) -> None:
    answer = await bridge.ask("tools/call", {"name": "add", "arguments": {"a": 1, "b": 2}})
    assert answer.kind == "result", answer
    assert answer.said["structuredContent"] == {"total": 3}
    assert answer.said["resultType"] == "complete"


async def test_lists_tell_how_long_they_hold(bridge: Any) -> None:
    answer = await bridge.ask("tools/list")
    assert {"ttlMs", "cacheScope", "resultType"} <= answer.said.keys()
    assert "add" in [tool["name"] for tool in answer.said["tools"]]


async def test_a_server_is_discovered(bridge: Any) -> None:
    answer = await bridge.ask("server/discover")
    assert "2026-07-28" in answer.said["supportedVersions"]
    assert answer.said["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "fixture-high"
    assert answer.said["instructions"] == "Use with care."
    assert "tools" in answer.said["capabilities"]


async def test_an_unknown_method_is_the_servers_error(bridge: Any) -> None:
    answer = await bridge.ask("no/such")
    assert (answer.kind, answer.said["code"]) == ("error", -32601)
