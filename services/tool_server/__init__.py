"""What the MCP servers of this repository share: strict arguments, errors that help, and a clean end.

They stand alone: nothing of `mesh` is in here, and any MCP host can run them over stdio.
"""

from services.tool_server.errors import InvalidArgument, quote
from services.tool_server.server import Result, ToolServer, build_tool, read_version, run_over_stdio

__all__ = ["InvalidArgument", "Result", "ToolServer", "build_tool", "quote", "read_version", "run_over_stdio"]
