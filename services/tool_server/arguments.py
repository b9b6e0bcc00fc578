"""Turns arguments that do not fit a tool's schema into a text that names the argument, the cause and the fix."""

import difflib
import math
from collections.abc import Mapping, Sized
from typing import Any

from pydantic import ValidationError

from services.tool_server.errors import InvalidArgument, quote

__all__ = ["check_arguments", "describe_rejection"]

_SHOWN_ERRORS = 5
_SIZES: tuple[tuple[type[Sized], str, str], ...] = (
    (list, "maxItems", "items"),
    (dict, "maxProperties", "entries"),
    (str, "maxLength", "characters"),
)


def check_arguments(arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    """Raise InvalidArgument for an argument that the schema does not have, or that is larger than it says.

    A misspelt option must not pass unseen, and what is too large must not be validated item by item.
    """
    known = schema.get("properties")
    if known is None:
        return
    for name, value in arguments.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            fix = f"Use {near[0]}." if near else f"The arguments are {', '.join(known)}."
            raise InvalidArgument(quote(name), "there is no such argument.", fix)
        for branch in (known[name], *known[name].get("anyOf", ())):
            for kind, key, unit in _SIZES:
                if isinstance(value, kind) and len(value) > branch.get(key, math.inf):
                    raise InvalidArgument(
                        name, f"{len(value)} {unit}; at most {branch[key]} are accepted.", "Give fewer."
                    )


def describe_rejection(err: ValidationError, schema: Mapping[str, Any]) -> str:
    """One line for each of the first few errors; long input is never repeated."""
    found = err.errors(include_url=False, include_context=False)
    lines = [_describe(dict(error), schema) for error in found[:_SHOWN_ERRORS]]
    if len(found) > _SHOWN_ERRORS:
        lines.append(f"and {len(found) - _SHOWN_ERRORS} more.")
    return "\n".join(lines)


def _describe(error: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    where = [str(part) for part in error["loc"]]
    if error["type"] == "missing":
        cause = "it is missing."
    else:
        given = error["input"]
        shown = f", not {quote(str(given))}" if isinstance(given, str | int | float) else ""
        cause = f"{error['msg'][:1].lower()}{error['msg'][1:]}{shown}."
    if error["type"] == "too_long":
        return f"{'.'.join(where)}: {cause} Give fewer."
    expected = schema.get("properties", {}).get(where[0], {}).get("description", "") if where else ""
    return f"{'.'.join(where)}: {cause}" + (f" Give: {expected}." if expected else "")
