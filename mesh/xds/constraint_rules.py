"""What the single rules of protoc-gen-validate say.

Source: https://github.com/bufbuild/protoc-gen-validate/blob/main/validate/validate.proto.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import re2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from mesh.errors import Internal

Check = Callable[[Any], str | None]
"""What is wrong with a value, None when nothing is."""

_NUMBERS = frozenset(
    f"{sign}{kind}{bits}"
    for sign, kind in (("", "int"), ("u", "int"), ("s", "int"), ("", "fixed"), ("s", "fixed"))
    for bits in (32, 64)
) | {"float", "double"}
_HEADER_NAME, _HEADER_VALUE = 1, 2
_STRICT = {
    _HEADER_NAME: re.compile(r":?[0-9a-zA-Z!#$%&'*+\-.^_|~`]+"),
    _HEADER_VALUE: re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*"),
}
_LOOSE = re.compile(r"[^\x00\n\r]*")
_ADVICE = {_HEADER_NAME: "is no name of a header", _HEADER_VALUE: "cannot be the value of a header"}


def build_check(kind: str, rules: Any, field: FieldDescriptor | None) -> Check:
    """The check of a value by rules of one kind ("string", "repeated", ...).

    `field` is the field that the value is of, or the list that it is an item of; None for parts of a mapping. Raises
    Internal for a rule that is not known.
    """
    checks = list(_checks_of(kind, rules, field))
    can_be_left_out = any(option.name == "ignore_empty" and value for option, value in rules.ListFields())
    is_wrapped = (
        field is not None
        and not field.is_repeated
        and field.message_type is not None
        and kind not in ("any", "duration")
    )

    def check(value: Any) -> str | None:
        if kind == "duration":
            value = value.seconds * 10**9 + value.nanos
        elif is_wrapped:
            value = value.value
        if can_be_left_out and not value:
            return None
        return next((flaw for each in checks if (flaw := each(value)) is not None), None)

    return check


def _checks_of(kind: str, rules: Any, field: FieldDescriptor | None) -> Iterator[Check]:
    for option, wanted in rules.ListFields():
        name = option.name
        if name in ("required", "items", "keys", "values", "ignore_empty", "strict"):
            continue
        if kind == "duration" and name in _COMPARISONS:
            yield _compare(name, wanted.seconds * 10**9 + wanted.nanos, f"{wanted.ToJsonString()}")
        elif kind in _NUMBERS and name in _COMPARISONS:
            yield _compare(name, wanted, f"{wanted:g}" if isinstance(wanted, float) else str(wanted))
        elif kind in ("repeated", "map") and name in _COUNTS:
            yield _count(name, wanted)
        elif kind == "repeated" and name == "unique":
            yield _repeats
        elif kind in ("string", "bytes") and name in _TEXTS:
            yield _TEXTS[name](wanted)
        elif kind == "string" and name == "well_known_regex":
            yield _well_known(wanted, is_strict=rules.strict)
        elif kind == "enum" and name == "defined_only":
            yield _defined_only(field)
        elif name == "const":
            yield _const(wanted)
        elif name == "in":
            yield _member(tuple(wanted), is_one=True)
        elif name == "not_in":
            yield _member(tuple(wanted), is_one=False)
        else:
            raise Internal(f"The rule {kind}.{name} of this Envoy is not known.", reason="ENVOY_RULE_UNKNOWN")


_COMPARISONS: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "lt": (lambda value, bound: value < bound, "less than"),
    "lte": (lambda value, bound: value <= bound, "at most"),
    "gt": (lambda value, bound: value > bound, "greater than"),
    "gte": (lambda value, bound: value >= bound, "at least"),
}
_COUNTS = {"min_items": 1, "max_items": -1, "min_pairs": 1, "max_pairs": -1}


def _compare(name: str, bound: Any, shown: str) -> Check:
    holds, words = _COMPARISONS[name]
    return lambda value: None if holds(value, bound) else f"must be {words} {shown}"


def _count(name: str, bound: int) -> Check:
    words = f"{'at least' if _COUNTS[name] > 0 else 'at most'} {bound}"
    return lambda value: (
        f"has {len(value)} items, must have {words}" if (len(value) - bound) * _COUNTS[name] < 0 else None
    )


def _length(words: str, is_good: Callable[[int, int], bool], *, in_bytes: bool) -> Callable[[int], Check]:
    def build(bound: int) -> Check:
        def check(value: str | bytes) -> str | None:
            length = len(value.encode()) if in_bytes and isinstance(value, str) else len(value)
            unit = "bytes" if in_bytes or isinstance(value, bytes) else "characters"
            if is_good(length, bound):
                return None
            return "must not be empty" if bound == 1 and length == 0 else f"must have {words} {bound} {unit}"

        return check

    return build


def _matching(pattern: str | bytes) -> Check:
    compiled = re2.compile(pattern)  # type: ignore[no-untyped-call]
    return lambda value: None if compiled.search(value) else f"must match {pattern!r}"


_TEXTS: dict[str, Callable[[Any], Check]] = {
    "len": _length("exactly", lambda length, bound: length == bound, in_bytes=False),
    "min_len": _length("at least", lambda length, bound: length >= bound, in_bytes=False),
    "max_len": _length("at most", lambda length, bound: length <= bound, in_bytes=False),
    "len_bytes": _length("exactly", lambda length, bound: length == bound, in_bytes=True),
    "min_bytes": _length("at least", lambda length, bound: length >= bound, in_bytes=True),
    "max_bytes": _length("at most", lambda length, bound: length <= bound, in_bytes=True),
    "pattern": _matching,
    "prefix": lambda part: lambda value: None if value.startswith(part) else f"must begin with {part!r}",
    "suffix": lambda part: lambda value: None if value.endswith(part) else f"must end with {part!r}",
    "contains": lambda part: lambda value: None if part in value else f"must contain {part!r}",
    "not_contains": lambda part: lambda value: f"must not contain {part!r}" if part in value else None,
}


def _well_known(which: int, *, is_strict: bool) -> Check:
    form = _STRICT[which] if is_strict else _LOOSE
    return lambda value: None if form.fullmatch(value) else _ADVICE[which]


def _defined_only(field: FieldDescriptor | None) -> Check:
    known = frozenset(field.enum_type.values_by_number) if field is not None and field.enum_type is not None else None
    return lambda value: None if known is None or value in known else f"{value} is no value of its enum"


def _const(wanted: Any) -> Check:
    return lambda value: None if value == wanted else f"must be {wanted!r}"


def _member(values: tuple[Any, ...], *, is_one: bool) -> Check:
    words = f"must{'' if is_one else ' not'} be one of {', '.join(str(value) for value in values)}"
    return lambda value: None if (value in values) == is_one else words


def _repeats(value: Any) -> str | None:
    keys = {item.SerializeToString(deterministic=True) if isinstance(item, Message) else item for item in value}
    return "has an item twice" if len(keys) < len(value) else None
