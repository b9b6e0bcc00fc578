"""The tools through the server, as a host would call them."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from mcp_types import CallToolResult

from services.tool_server import ToolServer
from services.utilities.server import build_server


@pytest.fixture(scope="session")
def server() -> ToolServer:
    return build_server(version="1.2.3")


@pytest.fixture
def call(server: ToolServer) -> Callable[..., Awaitable[dict[str, Any]]]:
    """Call a tool; gives back the structured content."""

    async def call_tool(name: str, **arguments: Any) -> dict[str, Any]:
        result = await server.call_tool(name, arguments)
        assert isinstance(result, CallToolResult)
        assert result.structured_content is not None
        return result.structured_content

    return call_tool


@pytest.fixture
def refusal(server: ToolServer) -> Callable[..., Awaitable[str]]:
    """Call a tool that must refuse; gives back the text of the error, which is never that of a crash."""

    async def call_tool(name: str, **arguments: Any) -> str:
        with pytest.raises(ToolError) as caught:
            await server.call_tool(name, arguments)
        assert not isinstance(caught.value, UnexpectedToolError)
        return str(caught.value)

    return call_tool
