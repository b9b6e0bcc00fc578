"""Converts what MCP servers answer (plain JSON values) to the messages of agentmesh.mcp.v1. Pure.

All functions raise ValueError for a value that does not fit the protocol; fields that the contract does not have are
left out, except inside schemas, structured content, `_meta`, annotations and unknown kinds of content, which travel as
the JSON that the server sent.
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from agentmesh.mcp.v1 import mcp_pb2 as pb
from mesh.mcp.calls import LOG_LEVELS, LogNews, ProgressNews
from mesh.mcp.frames import dump_json

Json = Mapping[str, Any]


def objects_of(raw: Json, key: str) -> list[Json]:
    """Return the list of objects under `key`."""
    found = raw.get(key)
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise ValueError(f"{key} is not a list of objects")
    return found


def text_of(raw: Json, key: str) -> str:
    """Return the string under `key`, or "" when there is none."""
    found = raw.get(key)
    if found is None:
        return ""
    if not isinstance(found, str):
        raise ValueError(f"{key} is not a string")
    return found


def server_info_to_proto(hello: Json, protocol_version: str) -> pb.ServerInfo:
    """Convert the result of `initialize` or `server/discover`."""
    meta = hello.get("_meta")
    info = hello.get("serverInfo")
    if info is None and isinstance(meta, dict):
        info = meta.get("io.modelcontextprotocol/serverInfo")
    info = info if isinstance(info, dict) else {}
    return pb.ServerInfo(
        name=text_of(info, "name"),
        title=text_of(info, "title"),
        version=text_of(info, "version"),
        protocol_version=protocol_version,
        instructions=text_of(hello, "instructions"),
        capabilities=dump_json(hello.get("capabilities") or {}),
    )


def tool_to_proto(raw: Json) -> pb.Tool:
    """Convert one entry of `tools/list`."""
    tool = pb.Tool(
        name=_name(raw),
        title=text_of(raw, "title"),
        description=text_of(raw, "description"),
        input_schema=_json(raw, "inputSchema"),
        output_schema=_json(raw, "outputSchema"),
        icons=_icons(raw),
        meta=_json(raw, "_meta"),
    )
    hints = raw.get("annotations")
    if isinstance(hints, dict):
        tool.annotations.CopyFrom(_tool_annotations(hints))
    return tool


def resource_to_proto(raw: Json) -> pb.Resource:
    """Convert one entry of `resources/list`, or a resource link."""
    resource = pb.Resource(
        uri=_required(raw, "uri"),
        name=text_of(raw, "name"),
        title=text_of(raw, "title"),
        description=text_of(raw, "description"),
        mime_type=text_of(raw, "mimeType"),
        icons=_icons(raw),
        annotations=_json(raw, "annotations"),
        meta=_json(raw, "_meta"),
    )
    size = _whole(raw, "size")
    if size is not None:
        resource.size = size
    return resource


def resource_template_to_proto(raw: Json) -> pb.ResourceTemplate:
    """Convert one entry of `resources/templates/list`."""
    return pb.ResourceTemplate(
        uri_template=_required(raw, "uriTemplate"),
        name=text_of(raw, "name"),
        title=text_of(raw, "title"),
        description=text_of(raw, "description"),
        mime_type=text_of(raw, "mimeType"),
        icons=_icons(raw),
        annotations=_json(raw, "annotations"),
        meta=_json(raw, "_meta"),
    )


def prompt_to_proto(raw: Json) -> pb.Prompt:
    """Convert one entry of `prompts/list`."""
    arguments = objects_of(raw, "arguments") if raw.get("arguments") is not None else []
    return pb.Prompt(
        name=_name(raw),
        title=text_of(raw, "title"),
        description=text_of(raw, "description"),
        arguments=[
            pb.PromptArgument(
                name=_name(argument),
                title=text_of(argument, "title"),
                description=text_of(argument, "description"),
                required=argument.get("required") is True,
            )
            for argument in arguments
        ],
        icons=_icons(raw),
        meta=_json(raw, "_meta"),
    )


def prompt_message_to_proto(raw: Json) -> pb.PromptMessage:
    """Convert one message of `prompts/get`."""
    content = raw.get("content")
    if not isinstance(content, dict):
        raise ValueError("content is not an object")
    return pb.PromptMessage(role=_required(raw, "role"), content=content_to_proto(content))


def resource_contents_to_proto(raw: Json) -> pb.ResourceContents:
    """Convert one piece of `resources/read`, or an embedded resource."""
    contents = pb.ResourceContents(
        uri=_required(raw, "uri"), mime_type=text_of(raw, "mimeType"), meta=_json(raw, "_meta")
    )
    if raw.get("blob") is not None:
        contents.blob = _bytes(raw, "blob")
    else:
        contents.text = _required(raw, "text")
    return contents


def content_to_proto(raw: Json) -> pb.Content:
    """Convert one piece of content; a kind that the contract does not know stays JSON."""
    content = pb.Content()
    match raw.get("type"):
        case "text":
            content.text.text = _required(raw, "text")
        case "image":
            content.image.data = _bytes(raw, "data")
            content.image.mime_type = text_of(raw, "mimeType")
        case "audio":
            content.audio.data = _bytes(raw, "data")
            content.audio.mime_type = text_of(raw, "mimeType")
        case "resource":
            resource = raw.get("resource")
            if not isinstance(resource, dict):
                raise ValueError("resource is not an object")
            content.resource.CopyFrom(resource_contents_to_proto(resource))
        case "resource_link":
            content.resource_link.CopyFrom(resource_to_proto(raw))
            return content  # annotations and _meta are the link's own
        case _:
            content.other = dump_json(raw)
            return content
    content.annotations = _json(raw, "annotations")
    content.meta = _json(raw, "_meta")
    return content


def tool_result_to_proto(raw: Json) -> pb.ToolResult:
    """Convert the result of `tools/call`. Content may be missing where there is structured content."""
    content = objects_of(raw, "content") if raw.get("content") is not None else []
    return pb.ToolResult(
        content=[content_to_proto(piece) for piece in content],
        structured_content=_json(raw, "structuredContent"),
        is_error=raw.get("isError") is True,
        meta=_json(raw, "_meta"),
    )


def progress_to_proto(news: ProgressNews) -> pb.Progress:
    """Convert a progress notification."""
    progress = pb.Progress(progress=news.progress, message=news.message)
    if news.total is not None:
        progress.total = news.total
    return progress


def log_to_proto(news: LogNews) -> pb.LogMessage:
    """Convert a log message."""
    level = f"LOG_LEVEL_{news.level.upper()}" if news.level in LOG_LEVELS else "LOG_LEVEL_UNSPECIFIED"
    try:
        data = dump_json(news.data)
    except ValueError:
        data = dump_json(repr(news.data))  # NaN and the like, which JSON cannot say
    return pb.LogMessage(level=pb.LogLevel.Value(level), logger=news.logger, data=data)


def log_level_from_proto(level: int) -> str | None:
    """Return the level's name in MCP, or None when no log messages are wanted; an unknown level is the highest."""
    return LOG_LEVELS[min(level, len(LOG_LEVELS)) - 1] if level > 0 else None


def _tool_annotations(hints: Json) -> pb.ToolAnnotations:
    annotations = pb.ToolAnnotations(title=text_of(hints, "title"))
    for key, field in (
        ("readOnlyHint", "read_only_hint"),
        ("destructiveHint", "destructive_hint"),
        ("idempotentHint", "idempotent_hint"),
        ("openWorldHint", "open_world_hint"),
    ):
        if isinstance(hints.get(key), bool):
            setattr(annotations, field, hints[key])
    return annotations


def _icons(raw: Json) -> list[pb.Icon]:
    if raw.get("icons") is None:
        return []
    icons = []
    for icon in objects_of(raw, "icons"):
        sizes = icon.get("sizes")
        # Up to 2025-06-18 drafts it was one string.
        listed = [sizes] if isinstance(sizes, str) else sizes if isinstance(sizes, list) else []
        icons.append(
            pb.Icon(
                src=_required(icon, "src"),
                mime_type=text_of(icon, "mimeType"),
                sizes=[size for size in listed if isinstance(size, str)],
            )
        )
    return icons


def _name(raw: Json) -> str:
    return _required(raw, "name")


def _required(raw: Json, key: str) -> str:
    found = raw.get(key)
    if not isinstance(found, str):
        raise ValueError(f"{key} is missing or not a string")
    return found


def _json(raw: Json, key: str) -> bytes:
    found = raw.get(key)
    return b"" if found is None else dump_json(found)


def _bytes(raw: Json, key: str) -> bytes:
    try:
        return base64.b64decode(_required(raw, key), validate=True)
    except binascii.Error as err:
        raise ValueError(f"{key} is not base64: {err}") from None


def _whole(raw: Json, key: str) -> int | None:
    found = raw.get(key)
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    if not isinstance(found, int) or isinstance(found, bool):
        return None
    return found if 0 <= found < 2**64 else None
