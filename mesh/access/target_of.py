"""What a request asks for, read out of its path and, for tools and skills, out of its message."""

from typing import Any

from google.protobuf.message import DecodeError

from agentmesh.agent.v1 import agent_service_pb2
from agentmesh.mcp.v1 import mcp_bridge_service_pb2
from mesh.access.target import Target
from mesh.errors import InvalidInput

_ANY = "*"
_PREFIX = 5
"""Bytes before a gRPC message: one that says whether it is compressed, four of its length."""

_MCP, _AGENT = "/agentmesh.mcp.v1.McpBridgeService/", "/agentmesh.agent.v1.AgentService/"

_TOOL_OF: dict[str, Any] = {
    f"{_MCP}CallTool": mcp_bridge_service_pb2.CallToolRequest,
    f"{_MCP}InvokeTool": mcp_bridge_service_pb2.InvokeToolRequest,
}
_SKILL_OF: dict[str, Any] = {f"{_AGENT}SubmitTask": agent_service_pb2.SubmitTaskRequest}
_ANY_TOOL = f"{_MCP}Link"
_ANY_SKILL = f"{_AGENT}Converse"


def read_call(
    service: str, path: str, body: bytes = b"", *, is_grpc: bool, is_partial: bool = False
) -> tuple[Target, bytes]:
    """What a request to a service asks for, and the text in it that people have written.

    `path` has no query; `body` is that of HTTP or begins with the message of gRPC. A message that cannot be read, or
    of which with `is_partial` the end is not there, asks for every tool: only who may call all of them may send it.
    Raises InvalidInput for a body that ends before its message does: servers would wait for the rest for ever.
    """
    if not is_grpc:
        return Target(service, path), body
    method = path.removeprefix("/")
    if path == _ANY_TOOL:
        return Target(service, method, tool=_ANY), b""
    if path == _ANY_SKILL:
        return Target(service, method, skill=_ANY), b""
    if (path in _TOOL_OF or path in _SKILL_OF) and not is_partial and not _is_whole(body):
        raise InvalidInput(
            "The body ends before its message does.", reason="MESSAGE_CUT_OFF", fix="Send a whole message of gRPC."
        )
    if kind := _TOOL_OF.get(path):
        message = _read(kind, body)
        if message is None:
            return Target(service, method, tool=_ANY), body
        arguments = message.arguments
        # What has no name is refused by the service; until then it is no tool that a rule could name.
        text = arguments if isinstance(arguments, bytes) else arguments.data
        return Target(service, method, tool=message.name or _ANY), text
    if kind := _SKILL_OF.get(path):
        message = _read(kind, body)
        if message is None:
            return Target(service, method, skill=_ANY), body
        parts = [part.text.encode() if part.text else part.json for part in message.input]
        return Target(service, method, skill=message.skill_id or _ANY), b"\n".join(parts)
    return Target(service, method), b""


def _is_whole(body: bytes) -> bool:
    return len(body) >= _PREFIX and len(body) >= _PREFIX + int.from_bytes(body[1:_PREFIX])


def _read(kind: Any, body: bytes) -> Any:
    """The one message of a body; None when there is no such, or it is compressed."""
    if len(body) < _PREFIX or body[0] or len(body) != _PREFIX + int.from_bytes(body[1:_PREFIX]):
        return None
    try:
        return kind.FromString(body[_PREFIX:])
    except DecodeError:
        return None
