"""One piece of a task's input or output, and what it is in Python."""

import json
from dataclasses import dataclass
from typing import Any, Literal, Self

import pydantic_core

from mesh.errors import Internal, InvalidInput

JSON = "application/json"
TEXT = "text/plain"


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of input or output: text, a JSON document in UTF-8, or bytes of any media type."""

    kind: Literal["text", "json", "raw"]
    content: bytes
    media_type: str
    name: str = ""

    @classmethod
    def of(cls, value: Any, *, name: str = "") -> Self:
        """The part for a value: a Part itself, text for a str, bytes as they are, JSON for everything else.

        Pydantic models, dataclasses, dates and the like become JSON as pydantic does it; NaN and infinities become
        null, which JSON has no word for. Raises Internal for what has no JSON form.
        """
        if isinstance(value, cls):
            return value if not name else cls(value.kind, value.content, value.media_type, name)
        if isinstance(value, str):
            return cls("text", value.encode(errors="replace"), TEXT, name)
        if isinstance(value, bytes | bytearray):
            return cls("raw", bytes(value), "application/octet-stream", name)
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
        """The text, the parsed JSON document, or the bytes; raises InvalidInput when the JSON is none."""
        if self.kind == "text":
            return self.content.decode(errors="replace")
        if self.kind == "raw":
            return self.content
        try:
            return json.loads(self.content)
        except (ValueError, RecursionError) as err:
            raise InvalidInput("The bytes are not a JSON document.", field="json") from err
