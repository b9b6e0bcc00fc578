"""An MCP server of the handshake era on the SDK's low-level API: logging levels, subscriptions, paging."""

import asyncio
from typing import Any

import mcp_types as types
from mcp.server.lowlevel import Server
from mcp.server.runner import serve_loop
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError

TOOLS = ["alpha", "beta", "gamma", "log", "touch", "subscribed", "big", "strange"]
subscribed: list[str] = []
levels = ["none"]


async def list_tools(ctx: Any, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
    start = int(params.cursor) if params and params.cursor else 0
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 2**70, "default": 1}}}
    tools = [types.Tool(name=name, input_schema=schema) for name in TOOLS[start : start + 3]]
    following = str(start + 3) if start + 3 < len(TOOLS) else None
    return types.ListToolsResult(tools=tools, next_cursor=following)


async def call_tool(ctx: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
    said: Any = "ok"
    match params.name:
        case "log":
            for weight in ("debug", "info", "error"):
                await ctx.session.send_log_message(level=weight, data={"level": levels[-1]}, logger="fixture")
        case "touch":
            await ctx.session.send_tool_list_changed()
            await ctx.session.send_prompt_list_changed()
            await ctx.session.send_resource_list_changed()
            await ctx.session.send_resource_updated((params.arguments or {})["uri"])
        case "subscribed":
            return types.CallToolResult(content=[], structured_content={"uris": subscribed, "level": levels[-1]})
        case "big":
            return types.CallToolResult(content=[], structured_content={"n": 2**80, "args": params.arguments})
        case name if name not in TOOLS:
            raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {name}")
        case "alpha" if params.arguments and "n" not in params.arguments:
            raise MCPError(types.INVALID_PARAMS, "n is missing")
    return types.CallToolResult(content=[types.TextContent(text=str(said))])


async def set_level(ctx: Any, params: types.SetLevelRequestParams) -> types.EmptyResult:
    levels.append(params.level)
    return types.EmptyResult()


async def subscribe(ctx: Any, params: types.SubscribeRequestParams) -> types.EmptyResult:
    subscribed.append(f"+{params.uri}")
    return types.EmptyResult()


async def unsubscribe(ctx: Any, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
    subscribed.append(f"-{params.uri}")
    return types.EmptyResult()


async def list_resources(ctx: Any, params: Any) -> types.ListResourcesResult:
    return types.ListResourcesResult(resources=[types.Resource(uri="test://a", name="a", size=7)])


server = Server(
    "fixture-low",
    version="0.9",
    on_list_tools=list_tools,
    on_call_tool=call_tool,
    on_set_logging_level=set_level,
    on_list_resources=list_resources,
    on_subscribe_resource=subscribe,
    on_unsubscribe_resource=unsubscribe,
)


async def main() -> None:
    # `Server.run` would serve the modern era as well.
    async with server.lifespan(server) as state, stdio_server() as (read, write):
        await serve_loop(server, read, write, lifespan_state=state)


asyncio.run(main())
