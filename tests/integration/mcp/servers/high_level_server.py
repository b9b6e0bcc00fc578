"""An MCP server on the SDK's high-level API: `high_level_server.py [--http PORT] [--legacy]`."""

import asyncio
import sys
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Context, Image
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.server.runner import serve_loop
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from mcp_types import METHOD_NOT_FOUND, Completion, ToolAnnotations
from pydantic import BaseModel

server = MCPServer("fixture-high", title="Fixture", version="1.2.3", instructions="Use with care.")


class Sum(BaseModel):
    total: int


@server.tool(
    title="Add", annotations=ToolAnnotations(read_only_hint=True, idempotent_hint=True), structured_output=True
)
def add(a: int, b: int) -> Sum:
    """Add two whole numbers."""
    return Sum(total=a + b)


@server.tool()
def echo(value: Any) -> dict[str, Any]:
    """Give back what was given."""
    return {"value": value}


@server.tool()
def fail() -> str:
    """Fail."""
    raise ToolError("this tool always fails")


@server.tool(structured_output=False)
def large(size: int) -> str:
    """Say a lot."""
    return "x" * size


@server.tool()
def picture() -> Image:
    """Draw nothing."""
    return Image(data=b"\x89PNG\x00\xff", format="png")


@server.tool()
async def count(to: int, ctx: Context) -> str:
    """Count, telling how far it has come, and log each step."""
    for step in range(1, to + 1):
        await ctx.report_progress(step, to, f"step {step}")
        await ctx.log("info", {"step": step}, logger_name="counter")
        await ctx.log("debug", "detail")
    return f"counted to {to}"


_gates: dict[str, asyncio.Event] = {}
_cancelled: list[str] = []


@server.tool()
async def wait(name: str, ctx: Context) -> str:
    """Wait until `release` is called with the same name."""
    gate = _gates.setdefault(name, asyncio.Event())
    try:
        await ctx.report_progress(0.5, None, "waiting")
        await gate.wait()
    except asyncio.CancelledError:
        _cancelled.append(name)
        raise
    return f"released {name}"


@server.tool()
async def release(name: str) -> str:
    """Let `wait` go on."""
    _gates.setdefault(name, asyncio.Event()).set()
    return "ok"


@server.tool()
async def cancelled() -> list[str]:
    """Names of the waits that were cancelled."""
    return list(_cancelled)


@server.tool()
async def change(uri: str, ctx: Context) -> str:
    """Tell that the lists and a resource have changed."""
    await ctx.notify_tools_changed()
    await ctx.notify_prompts_changed()
    await ctx.notify_resources_changed()
    await ctx.notify_resource_updated(uri)
    return "ok"


@server.resource("test://text", mime_type="text/plain", title="Some text")
def text() -> str:
    return "hello ☃"


@server.resource("test://binary", mime_type="application/octet-stream")
def binary() -> bytes:
    return b"\x00\xff\x01"


@server.resource("test://items/{item}")
def item(item: str) -> str:
    return f"item {item}"


@server.prompt(title="Greeting")
def greet(who: str, tone: str = "warm") -> list[UserMessage]:
    """Greet somebody."""
    return [UserMessage(f"Say a {tone} hello to {who}.")]


@server.completion()
async def complete(ref: Any, argument: Any, context: Any) -> Completion:
    prefix = context.arguments.get("prefix", "") if context and context.arguments else ""
    names = [prefix + name for name in ("anna", "anton", "berta") if name.startswith(argument.value)]
    return Completion(values=names, total=len(names), has_more=False)


async def refuse_modern(ctx: Any, call_next: Any) -> Any:
    """Play a server of the handshake era."""
    if ctx.method == "server/discover":
        raise MCPError(METHOD_NOT_FOUND, "Method not found")
    return await call_next(ctx)


async def serve_handshake_era() -> None:
    low_level = server._lowlevel_server
    async with low_level.lifespan(low_level) as state, stdio_server() as (read, write):
        await serve_loop(low_level, read, write, lifespan_state=state)


if __name__ == "__main__":
    if "--http" in sys.argv:
        if "--legacy" in sys.argv:
            server.middleware.append(refuse_modern)
        server.run("streamable-http", port=int(sys.argv[sys.argv.index("--http") + 1]))
    elif "--legacy" in sys.argv:
        asyncio.run(serve_handshake_era())
    else:
        server.run()
