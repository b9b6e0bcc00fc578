"""What tells whether a tool is still the one that somebody has approved."""

import hashlib
import json

from google.protobuf.json_format import MessageToDict

from agentmesh.mcp.v1 import mcp_pb2


def tool_digest(tool: mcp_pb2.Tool) -> str:
    """32 hexadecimal digits of all that a model is told of a tool; the order of keys in schemas does not count."""
    told = {
        "name": tool.name,
        "title": tool.title,
        "description": tool.description,
        "input_schema": _schema(tool.input_schema),
        "output_schema": _schema(tool.output_schema),
        "annotations": MessageToDict(tool.annotations, preserving_proto_field_name=True),
    }
    text = json.dumps(told, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _schema(text: bytes) -> object:
    return json.loads(text) if text else None
