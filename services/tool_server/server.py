"""An MCP server of plain functions, which the SDK runs in worker threads."""

import signal
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pydantic_core
from mcp.server import CacheHint, MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from mcp.server.mcpserver.tools import Tool
from mcp_types import CallToolResult, InputRequiredResult, TextContent, ToolAnnotations
from pydantic import BaseModel, ConfigDict, ValidationError

from services.tool_server.arguments import check_arguments, describe_rejection
from services.tool_server.errors import InvalidArgument

__all__ = ["Result", "ToolServer", "build_tool", "read_version", "run_over_stdio"]

_HOUR_MS = 3_600_000


class Result(BaseModel):
    """What a tool gives back."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ToolServer(MCPServer[dict[str, Any]]):
    """Serves tools that only compute.

    Every tool refuses arguments that it does not know, and answers a bad one with an error result whose text names the
    argument, the cause and the fix.
    """

    def __init__(self, name: str, tools: Iterable[Tool], *, title: str, instructions: str, version: str = "") -> None:
        listed = list(tools)
        self._schemas = {tool.name: tool.parameters for tool in listed}
        unchanging = CacheHint(ttl_ms=_HOUR_MS, scope="public")
        super().__init__(
            name,
            title=title,
            instructions=instructions,
            version=version,
            tools=listed,
            log_level="WARNING",
            cache_hints={"tools/list": unchanging, "prompts/list": unchanging},
        )

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[dict[str, Any], Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Call a tool; raises ToolError whose text is fit for the caller."""
        schema = self._schemas.get(name, {})
        try:
            check_arguments(arguments, schema)
            result = await super().call_tool(name, arguments, context)
        except InvalidArgument as err:
            raise ToolError(str(err)) from err
        except UnexpectedToolError as err:
            if isinstance(err.__cause__, InvalidArgument):
                raise ToolError(str(err.__cause__)) from err.__cause__
            raise
        except ToolError as err:
            if isinstance(err.__cause__, ValidationError):
                raise ToolError(describe_rejection(err.__cause__, schema)) from err.__cause__
            raise
        if isinstance(result, CallToolResult) and result.structured_content is not None:
            # The SDK indents the text copy of the result, which doubles the length of a long one.
            text = pydantic_core.to_json(result.structured_content).decode()
            return result.model_copy(update={"content": [TextContent(type="text", text=text)]})
        return result


def build_tool(function: Any, title: str, *, idempotent: bool = True) -> Tool:
    """A tool from a function; its docstring is the description, its annotated arguments the schema."""
    tool = Tool.from_function(
        function,
        title=title,
        description=" ".join((function.__doc__ or "").split()),
        annotations=ToolAnnotations(
            read_only_hint=True, idempotent_hint=idempotent, destructive_hint=False, open_world_hint=False
        ),
        structured_output=True,
    )
    tool.parameters["additionalProperties"] = False
    return tool


def run_over_stdio(server: ToolServer) -> int:
    """Serve until stdin closes; the exit status."""
    # The SDK reads stdin in a thread that cannot be interrupted: Python's own handler would wait for the next line.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        server.run()
    except* BrokenPipeError:
        print(f"{server.name}: the host no longer reads what is answered.", file=sys.stderr)
    return 0


def read_version() -> str:
    """The version of the installed distribution; "" in a checkout that is not installed."""
    try:
        return version("agentmesh")
    except PackageNotFoundError:
        return ""
