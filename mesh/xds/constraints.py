"""Envoy's own rules for the values of its messages, checked before anything is sent.

The descriptors in the Envoy binary carry the rules of protoc-gen-validate as options of fields, and Envoy refuses a
resource that breaks one of them.

    check_constraints(message) ──plan of its type, made once──> "connect_timeout: must be greater than 0s"
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from mesh.xds.constraint_rules import Check, build_check
from mesh.xds.descriptors import envoy_message, envoy_pool
from mesh.xds.resources import Resource

_ANY = "google.protobuf.Any"


def check_constraints(message: Message) -> list[str]:
    """What Envoy would refuse in a message of its API, as "FIELD: REASON"; none for a good message.

    Messages inside of google.protobuf.Any are checked, too, when their type is one that the mesh uses. What Envoy
    checks beyond these rules (names that must be unique, tables that must be prime) is not looked at.
    """
    found: list[str] = []
    _check_message(message, "", found)
    return found


@lru_cache(maxsize=65536)
def check_resource(resource: Resource) -> tuple[str, ...]:
    """`check_constraints` of a built resource; each content is checked once."""
    return tuple(check_constraints(envoy_message(resource.type_url.rpartition("/")[2]).FromString(resource.body)))


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be checked in messages of one type.

    `always` are fields that have a value even when they are not set; `when_set` the others, by number; `required` are
    fields, `one_required` oneofs that must be set. `opaque` are fields whose messages are not looked into.
    """

    always: tuple[tuple[str, Check], ...]
    when_set: Mapping[int, Check]
    items: Mapping[int, tuple[Check | None, Check | None]]
    required: tuple[str, ...]
    one_required: tuple[tuple[str, tuple[str, ...]], ...]
    opaque: frozenset[int]


def _check_message(message: Message, path: str, found: list[str]) -> None:
    plan = _plan(message.DESCRIPTOR)
    prefix = f"{path}." if path else ""
    for name, check in plan.always:
        _note(check(getattr(message, name)), prefix + name, found)
    for name in plan.required:
        if not message.HasField(name):
            found.append(f"{prefix}{name}: must be set")
    for oneof, names in plan.one_required:
        if message.WhichOneof(oneof) is None:
            found.append(f"{prefix}{oneof}: one of {', '.join(names)} must be set")
    for field, value in message.ListFields():
        here = prefix + field.name
        if (when_set := plan.when_set.get(field.number)) is not None:
            _note(when_set(value), here, found)
        if field.is_repeated:
            _check_items(plan, field, value, here, found)
        elif field.message_type is not None and field.number not in plan.opaque:
            _check_below(value, here, found)


def _check_items(plan: _Plan, field: FieldDescriptor, value: Any, here: str, found: list[str]) -> None:
    of_keys, of_values = plan.items.get(field.number, (None, None))
    is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
    item_type = field.message_type
    if is_map and item_type is not None:
        item_type = item_type.fields_by_name["value"].message_type
    is_message = item_type is not None
    if not is_message and of_keys is None and of_values is None:
        return
    pairs = (
        ((f'{here}["{key}"]', key, value[key]) for key in sorted(value))
        if is_map
        else ((f"{here}[{number}]", None, item) for number, item in enumerate(value))
    )
    for where, key, item in pairs:
        if of_keys is not None:
            _note(of_keys(key), where, found)
        if of_values is not None:
            _note(of_values(item), where, found)
        if is_message and field.number not in plan.opaque:
            _check_below(item, where, found)


def _check_below(message: Message, path: str, found: list[str]) -> None:
    if message.DESCRIPTOR.full_name != _ANY:
        _check_message(message, path, found)
        return
    name = message.type_url.rpartition("/")[2]  # type: ignore[attr-defined]
    try:
        inner = envoy_message(name).FromString(message.value)  # type: ignore[attr-defined]
    except KeyError:
        return
    except DecodeError:
        found.append(f"{path}: is no {name}")
        return
    _check_message(inner, path, found)


def _note(flaw: str | None, path: str, found: list[str]) -> None:
    if flaw is not None:
        found.append(f"{path}: {flaw}")


@cache
def _plan(descriptor: Descriptor) -> _Plan:
    always: list[tuple[str, Check]] = []
    when_set: dict[int, Check] = {}
    items: dict[int, tuple[Check | None, Check | None]] = {}
    required: list[str] = []
    opaque: set[int] = set()
    if _option(descriptor, "MessageOptions", "disabled") or _option(descriptor, "MessageOptions", "ignored"):
        return _Plan((), {}, {}, (), (), frozenset(field.number for field in descriptor.fields))
    for field in descriptor.fields:
        rules = _option(field, "FieldOptions", "rules")
        if rules is None:
            continue
        kind = rules.WhichOneof("type")
        is_required = rules.message.required or (kind in ("any", "duration") and getattr(rules, kind).required)
        # Of a oneof that is there when the field is the one that was chosen.
        if is_required and field.containing_oneof is None:
            required.append(field.name)
        if rules.message.skip:
            opaque.add(field.number)
        if kind is None:
            continue
        if kind == "repeated":
            items[field.number] = (None, _inner(rules.repeated.items, field))
        elif kind == "map":
            items[field.number] = (_inner(rules.map.keys, None), _inner(getattr(rules.map, "values"), None))  # noqa: B009 - a method in dicts
        check = build_check(kind, getattr(rules, kind), field)
        if field.is_repeated or not field.has_presence:
            always.append((field.name, check))
        else:
            when_set[field.number] = check
    one_required = tuple(
        (oneof.name, tuple(field.name for field in oneof.fields))
        for oneof in descriptor.oneofs
        if _option(oneof, "OneofOptions", "required")
    )
    return _Plan(tuple(always), when_set, items, tuple(required), one_required, frozenset(opaque))


def _option(element: Any, options: str, name: str) -> Any:
    """An option of protoc-gen-validate, None when it is not given.

    The options come as messages of the default pool, which has no such extension; so they are read again.
    """
    given = envoy_message(f"google.protobuf.{options}").FromString(element.GetOptions().SerializeToString())
    extension = envoy_pool().FindExtensionByName(f"validate.{name}")
    return given.Extensions[extension] if given.HasExtension(extension) else None


def _inner(rules: Any, field: FieldDescriptor | None) -> Check | None:
    kind = rules.WhichOneof("type")
    return None if kind is None else build_check(kind, getattr(rules, kind), field)
