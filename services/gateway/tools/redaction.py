"""Takes out of results and errors what hosts are not to see."""

import json
from collections.abc import Sequence
from typing import Any

from mesh.mcp.frames import dump_json
from services.gateway.tools.policy import Replacing

_NOT_TEXT = frozenset({"type", "mimeType", "data", "blob", "resultType", "_meta"})
"""Members of content that no person has written; pictures and sounds are not looked into."""


def redact(text: bytes, redactions: Sequence[Replacing]) -> bytes:
    """JSON of an object, with each text in it redacted; the same bytes when there was nothing to redact."""
    if not redactions:
        return text
    found = json.loads(text)
    made = _redacted(found, redactions)
    return text if made is found else dump_json(made)


def _redacted(value: Any, redactions: Sequence[Replacing]) -> Any:
    """The value itself where nothing in it has changed."""
    if isinstance(value, str):
        return _of_text(value, redactions)
    if isinstance(value, list):
        items = [_redacted(item, redactions) for item in value]
        return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
    if isinstance(value, dict):
        members = {name: item if name in _NOT_TEXT else _redacted(item, redactions) for name, item in value.items()}
        return members if any(members[name] is not item for name, item in value.items()) else value
    return value


def _of_text(text: str, redactions: Sequence[Replacing]) -> str:
    data = before = text.encode(errors="replace")
    for each in redactions:
        data = each.pattern.sub(each.replacement, data)
    return text if data == before else data.decode(errors="replace")
