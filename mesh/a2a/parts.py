"""Parts of A2A <-> parts of the mesh, both ways without loss.

A2A               mesh
text, raw, url    text, raw, url
data              json; JSON that A2A's data cannot hold (large whole numbers, deep nests) becomes text of its type
filename, metadata, media_type     the same
"""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from a2a.types import a2a_pb2 as a2a
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct, Value

from agentmesh.agent.v1 import agent_pb2 as pb
from mesh.errors import InvalidInput

JSON = "application/json"

_LARGEST_WHOLE = 1 << 53
_DEEPEST = 24
"""Levels of JSON: each takes three of protobuf, whose readers refuse more than a hundred."""


def part_to_mesh(part: a2a.Part, *, name: str = "") -> pb.Part:
    """Raises InvalidInput for a part without content, or with a number that JSON has no word for."""
    made = pb.Part(name=name, media_type=part.media_type, filename=part.filename)
    made.metadata = struct_to_json(part.metadata)
    match part.WhichOneof("content"):
        case "text":
            made.text = part.text
        case "raw":
            made.raw = part.raw
        case "url":
            made.url = part.url
        case "data":
            made.json = _to_json(_plain(part.data))
        case _:
            raise InvalidInput("The part has no content.", field="message.parts", fix="Set text, raw, url or data.")
    return made


def parts_to_mesh(parts: Iterable[a2a.Part]) -> list[pb.Part]:
    """The parts of a message, numbered when there are several: in the mesh each has a name of its own."""
    given = list(parts)
    return [part_to_mesh(part, name=str(number) if len(given) > 1 else "") for number, part in enumerate(given, 1)]


def part_from_mesh(part: pb.Part) -> a2a.Part:
    """The part of A2A; its name is that of its artifact, and not in it."""
    made = a2a.Part(media_type=part.media_type, filename=part.filename)
    if part.metadata:
        set_struct(made.metadata, part.metadata)
    match part.WhichOneof("content"):
        case "raw":
            made.raw = part.raw
        case "url":
            made.url = part.url
        case "json":
            value = _read(part.json)
            if value is None:
                made.text = part.json.decode(errors="replace")
                made.media_type = part.media_type or JSON
            else:
                made.data.CopyFrom(value)
        case _:
            made.text = part.text
    return made


def struct_to_json(struct: Struct) -> bytes:
    """A JSON object; b"" for an empty one. Raises InvalidInput for a number that JSON has no word for."""
    return _to_json({name: _plain(value) for name, value in struct.fields.items()}) if struct.fields else b""


def set_struct(struct: Struct, document: bytes) -> None:
    """Fill it with a JSON object; what a Struct cannot hold is left out."""
    try:
        content = json.loads(document)
    except (ValueError, RecursionError):
        return
    if isinstance(content, Mapping) and _fits(content):
        json_format.ParseDict(dict(content), struct)


def _plain(value: Value) -> Any:
    """Whole numbers as such: many skills take no others where they want one."""
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            return int(number) if _is_whole(number) else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return {name: _plain(item) for name, item in value.struct_value.fields.items()}
        case "list_value":
            return [_plain(item) for item in value.list_value.values]
        case _:
            return None


def _is_whole(number: float) -> bool:
    """Whether it is the same number when written without a point; -0.0 is not."""
    return number.is_integer() and abs(number) <= _LARGEST_WHOLE and (number != 0 or math.copysign(1, number) > 0)


def _to_json(content: Any) -> bytes:
    try:
        return json.dumps(content, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except (ValueError, RecursionError) as err:
        raise InvalidInput("It cannot be written as JSON.", field="message.parts", fix="Send finite numbers.") from err


def _read(document: bytes) -> Value | None:
    """A document as a Value; None when it is none, or would not come out of it again."""
    try:
        content = json.loads(document)
    except (ValueError, RecursionError):
        return None
    return json_format.ParseDict(content, Value()) if _fits(content) else None


def _fits(content: Any, depth: int = 0) -> bool:
    if depth > _DEEPEST:
        return False
    match content:
        case bool() | None:
            return True
        case int():
            return abs(content) <= _LARGEST_WHOLE
        case float():
            return content == content and abs(content) != float("inf")
        case str():
            return _is_unicode(content)
        case dict():
            return all(_is_unicode(name) and _fits(item, depth + 1) for name, item in content.items())
        case list():
            return all(_fits(item, depth + 1) for item in content)
    return False


def _is_unicode(text: str) -> bool:
    """Half of a surrogate pair can be written in JSON, and nowhere in protobuf."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
