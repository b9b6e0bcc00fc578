"""An MCP server whose tools say things; what it says of one of them stands in the file SAYER_DESCRIPTION."""

import asyncio
import os
from pathlib import Path

from mcp.server.mcpserver import MCPServer

server = MCPServer("sayer", log_level="WARNING")


@server.tool()
async def say(text: str) -> str:
    """Gives a text back."""
    return f"said {text}, card 1234 5678"


@server.tool()
async def wait(seconds: float) -> str:
    """Gives nothing back for a while."""
    await asyncio.sleep(seconds)
    return "done"


async def changing() -> str:
    return "done"


server.add_tool(changing, description=Path(os.environ["SAYER_DESCRIPTION"]).read_text())

if __name__ == "__main__":
    server.run()
