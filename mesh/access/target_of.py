"""What a request asks for, read out of its path and, for tools and skills, out of its message."""

import posixpath
import re
from typing import Any
from urllib.parse import unquote

from google.protobuf.message import DecodeError

from agentmesh.agent.v1 import agent_service_pb2
from agentmesh.mcp.v1 import mcp_bridge_service_pb2
from mesh.access.target import ANYTHING, Target
from mesh.errors import InvalidInput

_PREFIX = 5
"""Bytes before a gRPC message: one that says whether it is compressed, four of its length."""

_MCP, _AGENT = "agentmesh.mcp.v1.McpBridgeService/", "agentmesh.agent.v1.AgentService/"

_TOOL_OF: dict[str, Any] = {
    f"{_MCP}CallTool": mcp_bridge_service_pb2.CallToolRequest,
    f"{_MCP}InvokeTool": mcp_bridge_service_pb2.InvokeToolRequest,
}
_SKILL_OF: dict[str, Any] = {f"{_AGENT}SubmitTask": agent_service_pb2.SubmitTaskRequest}
_ANY_TOOL = (f"{_MCP}Ask", f"{_MCP}Dialog", f"{_MCP}Link")
_ANY_SKILL = f"{_AGENT}Converse"

METHODS_OF_TOOLS = (*_TOOL_OF, *_ANY_TOOL)
"""Through these tools are called."""
METHODS_OF_SKILLS = (*_SKILL_OF, _ANY_SKILL)
"""Through these skills are called."""

_GRPC = re.compile(r"/[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+/[A-Za-z_]\w*", re.ASCII)
_PLAIN = re.compile(r"(?:/[A-Za-z0-9_~:@!$&'()*+,=-][A-Za-z0-9._~:@!$&'()*+,=-]*)+/?")
"""A path that stands for itself: without percents, dots in front, empty steps."""


def read_call(
    service: str, path: str, body: bytes = b"", *, is_grpc: bool, is_partial: bool = False
) -> tuple[Target, bytes]:
    """What a request to a service asks for, and the text in it that people have written.

    `path` has no query; `body` is that of HTTP or begins with the message of gRPC. A message that cannot be read, or
    of which with `is_partial` the end is not there, asks for every tool: only who may call all of them may send it. A
    path that looks like a method of gRPC is one whatever the request says of its content: servers of gRPC do not look
    at that. Raises InvalidInput for a body that ends before its message does: servers would wait for the rest for ever.
    """
    path = plain_path(path)
    if not is_grpc and _GRPC.fullmatch(path) is None:
        return Target(service, path), body
    method = path.removeprefix("/")
    if method in _ANY_TOOL:
        return Target(service, method, tool=ANYTHING), b""
    if method == _ANY_SKILL:
        return Target(service, method, skill=ANYTHING), b""
    if (method in _TOOL_OF or method in _SKILL_OF) and not is_partial and not _is_whole(body):
        raise InvalidInput(
            "The body ends before its message does.", reason="MESSAGE_CUT_OFF", fix="Send a whole message of gRPC."
        )
    if kind := _TOOL_OF.get(method):
        message = _read(kind, body)
        if message is None:
            return Target(service, method, tool=ANYTHING), body
        arguments = message.arguments
        # What has no name is refused by the service; until then it is no tool that a rule could name.
        text = arguments if isinstance(arguments, bytes) else arguments.data
        return Target(service, method, tool=message.name or ANYTHING), text
    if kind := _SKILL_OF.get(method):
        message = _read(kind, body)
        if message is None:
            return Target(service, method, skill=ANYTHING), body
        parts = [part.text.encode() if part.text else part.json for part in message.input]
        return Target(service, method, skill=message.skill_id or ANYTHING), b"\n".join(parts)
    return Target(service, method), b""


def _is_whole(body: bytes) -> bool:
    return len(body) >= _PREFIX and len(body) >= _PREFIX + int.from_bytes(body[1:_PREFIX])


def plain_path(path: str) -> str:
    """The path that is served: decoded once, as servers do it, without "." and "..", each slash once.

    Envoy does the last two itself and refuses escaped slashes and NUL; here nothing depends on that.
    """
    if _PLAIN.fullmatch(path):
        return path
    decoded = unquote(path).replace("\\", "/")
    made = posixpath.normpath("/" + decoded.lstrip("/"))
    return made + "/" if decoded.endswith(("/", "/.", "/..")) and made != "/" else made


def _read(kind: Any, body: bytes) -> Any:
    """The one message of a body; None when there is no such, or it is compressed."""
    if len(body) < _PREFIX or body[0] or len(body) != _PREFIX + int.from_bytes(body[1:_PREFIX]):
        return None
    try:
        return kind.FromString(body[_PREFIX:])
    except DecodeError:
        return None
