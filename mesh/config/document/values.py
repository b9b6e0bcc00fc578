"""The small values of a mesh document: durations, percentages, names, matches, secrets; immutable and hashable."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Annotated, Any, Self, TypeVar

import re2
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    Tag,
    WithJsonSchema,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

T = TypeVar("T")
V = TypeVar("V")

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h))+")
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_LONGEST_SECONDS = 366 * 24 * 3600.0


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
    microseconds = value // timedelta(microseconds=1)
    if microseconds % 1_000_000 == 0 or microseconds > 10_000_000:
        return f"{_decimal(microseconds, 6)}s"
    return f"{_decimal(microseconds, 3)}ms"


def _decimal(number: int, places: int) -> str:
    whole, part = divmod(number, 10**places)
    return f"{whole}.{part:0{places}}".rstrip("0").rstrip(".")


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(duration_text, return_type=str),
    WithJsonSchema(
        {
            "anyOf": [{"type": "string", "pattern": rf"^(0|{_DURATION.pattern})$"}, {"const": 0}],
            "examples": ["250ms", "1.5s", "1m30s"],
        }
    ),
]
"""A duration; text in the document."""


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("this must be longer than 0")
    return value


PositiveDuration = Annotated[Duration, AfterValidator(_positive)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Percent = Annotated[float, Field(ge=0, le=100)]
"""From 0 to 100; Envoy keeps millionths."""
List = Annotated[tuple[T, ...], Field(strict=False)]
"""A list in the document, a tuple inside."""


@dataclass(frozen=True, slots=True)
class Form:
    """How a word must look, and what to tell who writes it otherwise."""

    pattern: re.Pattern[str]
    advice: str

    def check(self, text: str) -> str:
        """The text itself; raises ValueError with the advice when it does not have the form."""
        if self.pattern.fullmatch(text) is None:
            raise ValueError(self.advice)
        return text

    @property
    def schema(self) -> WithJsonSchema:
        """The form as JSON Schema."""
        return WithJsonSchema({"type": "string", "pattern": f"^{self.pattern.pattern}$"})


SERVICE_NAME = Form(
    re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?"),
    "use lower-case letters, digits and dashes, starting with a letter, at most 63 characters",
)
SUBSET_NAME = Form(
    re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?"),
    "use lower-case letters, digits and dashes, at most 32 characters",
)
TARGET = Form(
    re.compile(rf"{SERVICE_NAME.pattern.pattern}(/{SUBSET_NAME.pattern.pattern})?"), "write SERVICE or SERVICE/SUBSET"
)
HEADER_NAME = Form(
    re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,128}"),
    "use a header name in lower case; pseudo-headers have fields of their own",
)
INTENTION_NAME = Form(
    re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"), "use letters, digits, dots, dashes and _, at most 63 characters"
)
REFERENCE = Form(
    re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:/[^\0]+|kv:[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*"),
    "write env:NAME, file:/PATH or kv:NAME, never the secret itself",
)

ServiceName = Annotated[str, AfterValidator(SERVICE_NAME.check), SERVICE_NAME.schema]
SubsetName = Annotated[str, AfterValidator(SUBSET_NAME.check), SUBSET_NAME.schema]
Target = Annotated[str, AfterValidator(TARGET.check), TARGET.schema]
"""Where requests go: a service or one of its subsets."""
HeaderName = Annotated[str, AfterValidator(HEADER_NAME.check), HEADER_NAME.schema]
OneLine = Annotated[str, AfterValidator(Form(re.compile(r"[^\0\r\n]*"), "this has one line and no NUL").check)]
"""What can be the value of a header."""


class Names(dict[str, V]):
    """A mapping of the document: never changed after it was read, and hashable."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError("a mesh document is not changed")

    __setitem__ = __delitem__ = update = setdefault = pop = popitem = clear = __ior__ = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        values = handler.generate_schema(source.__args__[-1])
        return core_schema.no_info_after_validator_function(
            cls, core_schema.dict_schema(core_schema.str_schema(), values)
        )


def check_regex(text: str) -> None:
    """Raise ValueError unless RE2, which is what Envoy has, takes a regular expression."""
    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile(text, options)  # type: ignore[no-untyped-call]
    except re2.error as err:
        words = err.args[0] if err.args else b""
        detail = words.decode(errors="replace") if isinstance(words, bytes) else str(words)
        raise ValueError(f"{text!r} is not a regular expression of RE2: {detail}") from err


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
        if "" in (self.prefix, self.suffix, self.contains, self.regex):
            raise ValueError("only exact may be empty")
        if self.regex is not None:
            check_regex(self.regex)
        return self

    @model_serializer(mode="plain", when_used="json")
    def _to_json(self) -> str | dict[str, str]:
        """As people write it."""
        if self.exact is not None:
            return self.exact
        return {name: getattr(self, name) for name in self._given()}

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return _or_text(handler.resolve_ref_schema(handler(schema)))

    def fits(self, text: str) -> bool:
        """Whether a text looks so; an expression must match all of it."""
        if self.exact is not None:
            return text == self.exact
        if self.prefix is not None:
            return text.startswith(self.prefix)
        if self.suffix is not None:
            return text.endswith(self.suffix)
        if self.contains is not None:
            return self.contains in text
        return re2.fullmatch(self.regex, text) is not None  # type: ignore[no-untyped-call]

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

    @model_serializer(mode="plain", when_used="json")
    def _to_json(self) -> str | dict[str, str | bool]:
        """As people write it."""
        invert = {"invert": True} if self.invert else {}
        if self.text is None:
            return {"present": bool(self.present), **invert}
        text = self.text.model_dump(mode="json")
        if isinstance(text, str) and not invert:
            return text
        return {**({"exact": text} if isinstance(text, str) else text), **invert}

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        form = handler.resolve_ref_schema(handler(schema))
        text = {name: {"type": "string", "title": name.capitalize()} for name in Text.model_fields}
        return _or_text({**form, "properties": {**form["properties"], **text}})


def _or_text(form: JsonSchemaValue) -> JsonSchemaValue:
    """The schema of what may be written as a plain text, too. Only the description stays outside."""
    inner = {key: value for key, value in form.items() if key not in ("title", "description")}
    return {key: form[key] for key in ("title", "description") if key in form} | {"anyOf": [{"type": "string"}, inner]}


class Secret(Part):
    """A reference to a secret, never the secret itself: env:NAME, file:/PATH, or kv:PATH (encrypted in Consul's KV)."""

    # Not by `pattern`, for the advice; and a secret in the place of its reference must not come back in an error.
    secret: Annotated[str, AfterValidator(REFERENCE.check), REFERENCE.schema]


def _kind_of_value(value: object) -> str:
    return "secret" if isinstance(value, Secret | Mapping) else "text"


Value = Annotated[Annotated[OneLine, Tag("text")] | Annotated[Secret, Tag("secret")], Discriminator(_kind_of_value)]
"""The text of a header, or where to find it."""
