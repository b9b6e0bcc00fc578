"""What an agent can do: a handler, and what its input and output look like.

The type of the handler's first parameter says what comes in: `str` takes text, `Part` one part of any kind as it is,
`list[Part]` any number of them, and every other type takes one JSON document, which pydantic checks and converts.
"""

import inspect
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema

from mesh.agent.part import JSON, TEXT, Part
from mesh.errors import InvalidInput

if TYPE_CHECKING:
    from mesh.agent.context import TaskContext

Handler = Callable[[Any, "TaskContext"], Awaitable[Any]]

_ID = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?")
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SHOWN_ERRORS = 3
_ANY = "*/*"


@dataclass(frozen=True, slots=True)
class Skill:
    """One skill. Made by `build_skill`; schemas are JSON Schema in UTF-8, empty where the data is not JSON."""

    id: str
    name: str
    description: str
    tags: tuple[str, ...]
    handler: Handler
    input_modes: tuple[str, ...]
    output_modes: tuple[str, ...]
    input_schema: bytes
    output_schema: bytes
    adapter: "TypeAdapter[Any] | None"
    takes_all: bool = False

    def parse_input(self, parts: Sequence[Part]) -> Any:
        """What the handler gets; raises InvalidInput that names the field at fault."""
        if self.takes_all:
            return list(parts)
        if len(parts) != 1:
            raise InvalidInput(f"The skill {self.id} takes one part, not {len(parts)}.", field="input")
        (part,) = parts
        if self.adapter is None:
            if self.input_modes == (TEXT,):
                if part.kind != "text":
                    raise InvalidInput(f"The skill {self.id} takes text.", field="input", fix="Send a text part.")
                return part.value
            return part
        if part.kind in ("raw", "url"):
            raise InvalidInput(f"The skill {self.id} takes a JSON document.", field="input", fix="Send a JSON part.")
        try:
            # Text is taken, too: many callers have no other way to say JSON.
            return self.adapter.validate_json(part.content)
        except ValidationError as err:
            raise _explain(err) from None


def build_skill(
    handler: Handler,
    *,
    id: str,  # noqa: A002 - the word of the contract
    name: str = "",
    description: str = "",
    tags: Sequence[str] = (),
    input_schema: Any = None,
    output_schema: Any = None,
    output_modes: Sequence[str] = (),
) -> Skill:
    """Describe a handler `async def handler(input, task)`.

    `input_schema` and `output_schema` are types (pydantic models, dataclasses, TypedDicts, ...), by default those of
    the handler's annotations. Raises InvalidInput when the handler cannot be a skill.
    """
    where = f"skill {id!r}"
    if _ID.fullmatch(id) is None:
        raise InvalidInput(
            f"{id!r} is not a skill id.", field="id", fix="Use lower-case letters, digits, dashes, dots, underscores."
        )
    parameters = list(inspect.signature(handler).parameters.values())
    if not inspect.iscoroutinefunction(handler) or len(parameters) != 2:
        raise InvalidInput(f"The handler of {where} is none.", field="handler", fix="async def handler(input, task)")
    hints = _hints(handler, where) if input_schema is None or output_schema is None else {}
    takes = input_schema if input_schema is not None else hints.get(parameters[0].name)
    gives = output_schema if output_schema is not None else hints.get("return")
    if takes is None:
        raise InvalidInput(
            f"It is not said what {where} takes.",
            field="input_schema",
            fix="Annotate the handler's first parameter, or give input_schema.",
        )
    adapter = None if takes in (str, Part, list[Part]) else _adapter(takes, where, "input_schema")
    input_modes = (JSON,) if adapter is not None else (TEXT,) if takes is str else (_ANY,)
    modes, schema = _output(gives, where)
    return Skill(
        id=id,
        name=name or id,
        description=description or inspect.getdoc(handler) or "",
        tags=tuple(sorted(set(tags))),
        handler=handler,
        input_modes=input_modes,
        output_modes=tuple(output_modes) or modes,
        input_schema=_schema(adapter, where, "input_schema") if adapter is not None else b"",
        output_schema=schema,
        adapter=adapter,
        takes_all=takes == list[Part],
    )


def _output(gives: Any, where: str) -> tuple[tuple[str, ...], bytes]:
    """Media types and schema of an output."""
    if gives in (None, type(None), Any):
        return (JSON,), b""
    if gives is str:
        return (TEXT,), b""
    if gives in (Part, bytes):
        return (_ANY,), b""
    adapter = _adapter(gives, where, "output_schema")
    return (JSON,), _schema(adapter, where, "output_schema", is_output=True)


def _hints(handler: Handler, where: str) -> dict[str, Any]:
    try:
        return get_type_hints(handler, include_extras=True)
    except NameError as err:
        raise InvalidInput(
            f"An annotation of {where} cannot be read: {err}.", field="handler", fix="Give input_schema=TYPE."
        ) from err


def _adapter(kind: Any, where: str, field: str) -> "TypeAdapter[Any]":
    try:
        return TypeAdapter(kind)
    except (PydanticSchemaGenerationError, PydanticUserError) as err:
        raise InvalidInput(f"{kind!r} in {where} has no JSON form.", field=field, fix="Use a pydantic model.") from err


def _schema(adapter: "TypeAdapter[Any]", where: str, field: str, *, is_output: bool = False) -> bytes:
    try:
        schema = adapter.json_schema(mode="serialization" if is_output else "validation")
    except PydanticInvalidForJsonSchema as err:
        raise InvalidInput(f"{where} has no JSON Schema: {err}.", field=field, fix="Use a pydantic model.") from err
    return json.dumps({"$schema": _DIALECT, **schema}, separators=(",", ":")).encode()


def _explain(err: ValidationError) -> InvalidInput:
    """The first fields at fault. What was sent is not repeated: it may be long, or a secret."""
    found = err.errors(include_url=False, include_context=False, include_input=False)
    # What comes from no field of the input, such as the tags of a union, is left out of the path.
    places = [".".join(("input", *(str(part) for part in error["loc"]))) for error in found]
    said = [error["msg"] for error in found]
    more = "; ".join(f"{place}: {text}" for place, text in zip(places[1:_SHOWN_ERRORS], said[1:], strict=False))
    rest = len(found) - _SHOWN_ERRORS
    summary = said[0] + (f" (also {more}{f'; and {rest} more' if rest > 0 else ''})" if more else "")
    return InvalidInput(
        summary if summary.endswith(".") else f"{summary}.",
        field=places[0],
        fix="The skill's input_schema in the agent's card says what it takes.",
    )
