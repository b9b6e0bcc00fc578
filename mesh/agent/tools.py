"""Calls tools of MCP servers through their bridges."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import pydantic_core

from agentmesh.mcp.v1 import mcp_bridge_service_pb2 as pb
from agentmesh.mcp.v1 import mcp_bridge_service_pb2_grpc as pb_grpc
from agentmesh.mcp.v1 import mcp_pb2
from mesh.errors import FailedPrecondition, Internal, InvalidInput, MeshError
from mesh.rpc import error_from_rpc

OnProgress = Callable[[float, float | None, str], None]
"""Told of a tool's progress: work done, all the work or None, and a message."""

_LONGEST_FAILURE = 600
_MOST_PAGES = 1000


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool gave back.

    `structured` is its JSON object for programs, None when it has none; `text` are its texts, joined by line ends;
    `content` is every piece of it as the bridge sent it.
    """

    structured: Any
    text: str
    content: tuple[mcp_pb2.Content, ...]


@dataclass(frozen=True, slots=True)
class ToolInfo:
    """A tool that a server offers; the schemas are parsed JSON, None when there is none."""

    name: str
    title: str
    description: str
    input_schema: Any
    output_schema: Any


async def call_tool(
    channel: grpc.aio.Channel,
    service: str,
    tool: str,
    arguments: Mapping[str, Any],
    *,
    timeout: float,
    on_progress: OnProgress | None,
) -> ToolResult:
    """Run a tool; raises what `MeshClient.use_tool` says."""
    try:
        sent = pydantic_core.to_json(dict(arguments))
    except (pydantic_core.PydanticSerializationError, ValueError) as err:
        raise InvalidInput(f"The arguments of {tool} have no JSON form: {err}.", field="arguments") from err
    stub = pb_grpc.McpBridgeServiceStub(channel)
    call = stub.CallTool(pb.CallToolRequest(name=tool, arguments=sent), timeout=timeout)
    try:
        async for response in call:
            match response.WhichOneof("event"):
                case "progress" if on_progress is not None:
                    progress = response.progress
                    total = progress.total if progress.HasField("total") else None
                    on_progress(progress.progress, total, progress.message)
                case "result":
                    return _result(response.result, service, tool)
    except grpc.aio.AioRpcError as err:
        raise from_service(err, service) from err
    finally:
        # Also when the caller was cancelled: the bridge then cancels the tool.
        call.cancel()
    raise Internal(f"{service} ended the call of {tool} without a result.", service=service, fix="See its log.")


async def list_tools(channel: grpc.aio.Channel, service: str, *, timeout: float) -> list[ToolInfo]:
    """All tools of a server, over as many pages as it takes."""
    stub = pb_grpc.McpBridgeServiceStub(channel)
    found: list[ToolInfo] = []
    token = ""
    for _ in range(_MOST_PAGES):
        try:
            page = await stub.ListTools(pb.ListToolsRequest(page_token=token), timeout=timeout)
        except grpc.aio.AioRpcError as err:
            raise from_service(err, service) from err
        found += [_info(tool, service) for tool in page.tools]
        token = page.next_page_token
        if not token:
            return found
    raise Internal(f"The list of {service}'s tools has no end.", service=service)


def from_service(err: grpc.aio.AioRpcError, service: str) -> MeshError:
    """The error of a call, with the name of the service that was called when it does not say one itself."""
    error = error_from_rpc(err)
    error.service = error.service or service
    return error


def _result(result: mcp_pb2.ToolResult, service: str, tool: str) -> ToolResult:
    text = "\n".join(piece.text.text for piece in result.content if piece.WhichOneof("kind") == "text")
    if result.is_error:
        raise FailedPrecondition(
            f"The tool {tool} of {service} failed: {text[:_LONGEST_FAILURE] or 'it does not say why'}",
            reason="TOOL_FAILED",
            service=service,
        )
    structured = _json(result.structured_content, service, tool) if result.structured_content else None
    return ToolResult(structured=structured, text=text, content=tuple(result.content))


def _info(tool: mcp_pb2.Tool, service: str) -> ToolInfo:
    return ToolInfo(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=_json(tool.input_schema, service, tool.name) if tool.input_schema else None,
        output_schema=_json(tool.output_schema, service, tool.name) if tool.output_schema else None,
    )


def _json(text: bytes, service: str, tool: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as err:
        raise Internal(f"What {service} says of {tool} is not JSON.", service=service) from err
