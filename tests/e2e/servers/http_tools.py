"""A streamable HTTP MCP server with one tool; argument: the port."""

import sys

from mcp.server import MCPServer

server = MCPServer("http-tools")


@server.tool()
def double(value: int) -> int:
    """Twice the value."""
    return 2 * value


server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
