"""The server that MCP benchmarks call: one tool that gives back its text. `mcp_echo.py [PORT]`: HTTP, else stdio.

Written with FastMCP and its defaults, as most servers in Python are; it runs in an environment of its own (peers.py).
"""

import sys

from fastmcp import FastMCP

server = FastMCP("echo")


@server.tool
async def echo(text: str) -> str:
    """Give the text back."""
    return text


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("http", host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", show_banner=False)
    else:
        server.run("stdio", log_level="warning", show_banner=False)
