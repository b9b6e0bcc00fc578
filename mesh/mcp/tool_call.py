"""Runs one tool over a shared connection, with its progress and log messages."""

import asyncio
from typing import Any

from mcp_types import LOG_LEVEL_META_KEY

from mesh.errors import MeshError
from mesh.mcp.calls import LOG_LEVELS, CallNews
from mesh.mcp.connection import Connection
from mesh.mcp.faults import may_mean_unknown, says_unknown
from mesh.mcp.negotiate import Era

_SIDE_REQUEST_TIMEOUT = 5.0


async def call_tool(
    connection: Connection,
    name: str,
    arguments: dict[str, Any],
    meta: dict[str, Any],
    news: CallNews,
    *,
    timeout: float,
) -> dict[str, Any]:
    """Run a tool and return its result as the server sent it; `news` is told what comes before.

    Raises NotFound when the server has no such tool, whichever way it says so, else as `Connection.request`.
    """
    ends = asyncio.get_running_loop().time() + timeout
    meta = dict(meta)
    # The SDK's dispatcher makes a token of its own for each request.
    meta.pop("progressToken", None)
    await _ask_for_logs(connection, news, meta, timeout)
    params: dict[str, Any] = {"name": name, "arguments": arguments}
    if meta:
        params["_meta"] = meta

    def left() -> float:
        return max(ends - asyncio.get_running_loop().time(), 0.001)

    try:
        with connection.calls.running(news):
            result = await connection.request("tools/call", params, timeout=left(), on_progress=news.on_progress)
    except MeshError as err:
        if may_mean_unknown(err):
            await connection.check_listed("tool", name, timeout=left())
        raise
    if result.get("isError") is True and says_unknown(_first_text(result)):
        # Servers on the SDK's 1.x line answer a call of an unknown tool with an ordinary tool error.
        await connection.check_listed("tool", name, timeout=left())
    return result


async def _ask_for_logs(connection: Connection, news: CallNews, meta: dict[str, Any], timeout: float) -> None:
    """Let the server send log messages: in the modern era for this request, before it for the session."""
    if news.log_level is None:
        return
    if connection.era is Era.MODERN:
        meta[LOG_LEVEL_META_KEY] = news.log_level
        return
    if "logging" not in connection.capabilities:
        return
    level = connection.log_level
    if level is not None and LOG_LEVELS.index(level) <= LOG_LEVELS.index(news.log_level):
        return  # never made heavier again: that would silence other callers
    try:
        await connection.request(
            "logging/setLevel", {"level": news.log_level}, timeout=min(timeout, _SIDE_REQUEST_TIMEOUT)
        )
    except MeshError:
        return  # a call without logs is better than none
    connection.log_level = news.log_level


def _first_text(result: dict[str, Any]) -> str:
    content = result.get("content")
    first = content[0] if isinstance(content, list) and content else None
    text = first.get("text") if isinstance(first, dict) else None
    return text if isinstance(text, str) else ""
