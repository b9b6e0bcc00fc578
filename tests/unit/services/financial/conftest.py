"""A financial server in this process."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult

from services.financial.prices import SAMPLE_DIRECTORY, PriceFolder
from services.financial.server import FinancialServer


@pytest.fixture(scope="session")
def server() -> FinancialServer:
    """Serves the sample prices."""
    return FinancialServer(PriceFolder(SAMPLE_DIRECTORY))


@pytest.fixture
def call(server: FinancialServer) -> Callable[..., Awaitable[dict[str, Any]]]:
    """Call a tool; give its structured content."""

    async def call(name: str, **arguments: Any) -> dict[str, Any]:
        result = await server.call_tool(name, arguments)
        assert isinstance(result, CallToolResult)
        assert result.structured_content is not None
        return result.structured_content

    return call


@pytest.fixture
def refusal(server: FinancialServer) -> Callable[..., Awaitable[str]]:
    """Call a tool that must refuse; give the text of the refusal."""

    async def refusal(name: str, arguments: dict[str, Any]) -> str:
        with pytest.raises(ToolError) as caught:
            await server.call_tool(name, arguments)
        return str(caught.value)

    return refusal
