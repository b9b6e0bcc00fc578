"""The small values of a mesh document: durations, percentages, names, matches, secrets; immutable and hashable."""

import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import cached_property
from types import MappingProxyType
from typing import Annotated, Any, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

T = TypeVar("T")
V = TypeVar("V")

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_LONGEST_SECONDS = 366 * 24 * 3600.0
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_TARGET = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?(/[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?)?")
_SUBSET = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
_HEADER = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,128}")


class Part(BaseModel):
    """A part of the document: unknown keys are refused, nothing is converted in silence, nothing changes."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True)

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        # Parts are keys of the caches of what is built from them, for each proxy at each change.
        return hash(tuple(getattr(self, name) for name in type(self).model_fields))


def parse_duration(value: object) -> object:
    """Read "250ms", "1.5s", "1m30s" or "2h"; "0" and 0 are no time at all."""
    if isinstance(value, timedelta):
        return value
    if value in ("0", 0) and not isinstance(value, bool):
        return timedelta(0)
    if not isinstance(value, str) or _DURATION.fullmatch(value) is None:
        raise ValueError("write a duration such as 250ms, 1.5s, 1m30s or 2h")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(value))
    if seconds > _LONGEST_SECONDS:
        raise ValueError("this is longer than a year")
    return timedelta(seconds=seconds)


def duration_text(value: timedelta) -> str:
    """The shortest exact form in seconds or milliseconds."""
    milliseconds = value / timedelta(milliseconds=1)
    return f"{milliseconds / 1000:g}s" if milliseconds % 1000 == 0 or milliseconds > 10_000 else f"{milliseconds:g}ms"


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(duration_text, return_type=str),
    WithJsonSchema(
        {"type": "string", "pattern": rf"^(0|{_DURATION.pattern})$", "examples": ["250ms", "1.5s", "1m30s"]}
    ),
]
"""A duration; text in the document."""


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("this must be longer than 0")
    return value


PositiveDuration = Annotated[Duration, AfterValidator(_positive)]
Percent = Annotated[float, Field(ge=0, le=100)]
"""From 0 to 100; Envoy keeps millionths."""
List = Annotated[tuple[T, ...], Field(strict=False)]
"""A list in the document, a tuple inside."""


def _matching(form: re.Pattern[str], advice: str) -> AfterValidator:
    def check(value: str) -> str:
        if form.fullmatch(value) is None:
            raise ValueError(advice)
        return value

    return AfterValidator(check)


ServiceName = Annotated[
    str, _matching(_NAME, "use lower-case letters, digits and dashes, starting with a letter, at most 63 characters")
]
SubsetName = Annotated[str, _matching(_SUBSET, "use lower-case letters, digits and dashes, at most 32 characters")]
Target = Annotated[str, _matching(_TARGET, "write SERVICE or SERVICE/SUBSET")]
"""Where requests go: a service or one of its subsets."""
HeaderName = Annotated[
    str, _matching(_HEADER, "use a header name in lower case; pseudo-headers have fields of their own")
]


class Names(dict[str, V]):
    """A mapping of the document: never changed after it was read, and hashable."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError("a mesh document is not changed")

    __setitem__ = __delitem__ = update = setdefault = pop = popitem = clear = _refuse

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        values = handler.generate_schema(source.__args__[-1])
        return core_schema.no_info_after_validator_function(
            cls, core_schema.dict_schema(core_schema.str_schema(), values)
        )


NOTHING: Mapping[str, Any] = MappingProxyType({})


def split_target(target: str) -> tuple[str, str]:
    """Service and subset of a target; "" when it names no subset."""
    service, _, subset = target.partition("/")
    return service, subset


class Text(Part):
    """How a text is to look: exactly one of the fields; a plain text in the document means `exact`."""

    exact: str | None = None
    prefix: str | None = None
    suffix: str | None = None
    contains: str | None = None
    regex: str | None = None
    """RE2, as Envoy has it: no look-around, no back-references."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        return {"exact": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(list(self._given())) != 1:
            raise ValueError("give exactly one of exact, prefix, suffix, contains, regex")
        if self.regex is not None:
            try:
                re.compile(self.regex)
            except re.error as err:
                raise ValueError(f"{self.regex!r} is not a regular expression: {err}") from err
        return self

    def _given(self) -> Iterator[str]:
        return (name for name in type(self).model_fields if name != "invert" and getattr(self, name) is not None)


class HeaderMatch(Part):
    """What a header must be: a text form, or `present`; `invert` turns it round. A plain text means `exact`."""

    text: Text | None = None
    present: bool | None = None
    invert: bool = False

    @model_validator(mode="before")
    @classmethod
    def _from_short(cls, value: object) -> object:
        if isinstance(value, str):
            return {"text": value}
        if isinstance(value, dict) and "text" not in value:
            form = {key: value[key] for key in value if key in Text.model_fields}
            if form:
                return {"text": form} | {key: value[key] for key in value if key not in form}
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.text is None) == (self.present is None):
            raise ValueError("give either a text (exact, prefix, suffix, contains, regex) or present")
        return self


class Secret(Part):
    """A reference to a secret, never the secret itself: env:NAME, file:/PATH, or kv:PATH (encrypted in Consul's KV)."""

    secret: Annotated[str, Field(pattern=r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:/.+|kv:[A-Za-z0-9._/-]+)$")]


Value = str | Secret
"""A text, or where to find it."""
