"""One piece of a task's input or output, and what it is in Python."""

import json
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import pydantic_core

from mesh.errors import Internal, InvalidInput

JSON = "application/json"
TEXT = "text/plain"
BYTES = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Artifact:
    """What one or several outputs make together; `id` is unique in the task, `metadata` a JSON object or b""."""

    id: str
    name: str = ""
    description: str = ""
    metadata: bytes = b""
    extensions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of input or output: text, a JSON document in UTF-8, bytes of any media type, or where they are to be had.

    `metadata` is a JSON object, b"" for none. Outputs that have the same `artifact` belong together.
    """

    kind: Literal["text", "json", "raw", "url"]
    content: bytes
    media_type: str
    name: str = ""
    filename: str = ""
    metadata: bytes = b""
    artifact: "Artifact | None" = None

    @classmethod
    def of(cls, value: Any, *, name: str = "") -> Self:
        """The part for a value: a Part itself, text for a str, bytes as they are, JSON for everything else.

        Pydantic models, dataclasses, dates and the like become JSON as pydantic does it; NaN and infinities become
        null, which JSON has no word for. Raises Internal for what has no JSON form.
        """
        if isinstance(value, cls):
            return value if not name else replace(value, name=name)
        if isinstance(value, str):
            return cls("text", value.encode(errors="replace"), TEXT, name)
        if isinstance(value, bytes | bytearray):
            return cls("raw", bytes(value), BYTES, name)
        try:
            return cls("json", pydantic_core.to_json(value, inf_nan_mode="null"), JSON, name)
        except (pydantic_core.PydanticSerializationError, ValueError, RecursionError) as err:
            raise Internal(
                f"An output of type {type(value).__name__} has no JSON form.",
                reason="OUTPUT_NOT_JSON",
                fix="Give back a pydantic model, a dict, a list, text or bytes.",
            ) from err

    @property
    def value(self) -> Any:
        """The text or URL, the parsed JSON document, or the bytes; raises InvalidInput when the JSON is none."""
        if self.kind in ("text", "url"):
            return self.content.decode(errors="replace")
        if self.kind == "raw":
            return self.content
        try:
            return json.loads(self.content)
        except (ValueError, RecursionError) as err:
            raise InvalidInput("The bytes are not a JSON document.", field="json") from err
