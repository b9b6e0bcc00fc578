"""The server that MCP benchmarks call: one tool that gives back its text. `mcp_echo.py [PORT]`: HTTP, else stdio."""

import sys

from mcp.server.mcpserver import MCPServer

server = MCPServer("echo", log_level="WARNING")


@server.tool()
async def echo(text: str) -> str:
    """Give the text back."""
    return text


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", port=int(sys.argv[1]), json_response=True, stateless_http=True)
    else:
        server.run()
