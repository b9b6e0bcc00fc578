"""What is wrong with a value, in words for people: the model's errors, and names that come near."""

import difflib
import re
from collections.abc import Collection, Mapping
from typing import Any

_WORD = re.compile(r"'([^']*)'")


def nearest(name: str, names: Collection[str]) -> str:
    """The end of a sentence that names the known names nearest to `name`; "" when none comes near."""
    close = difflib.get_close_matches(name, sorted(names), n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def reason_of(error: Mapping[str, Any], fields: Collection[str] = ()) -> str:
    """Why pydantic refuses a value; `fields` are those that there are where one was given that there is not."""
    context = error.get("ctx", {})
    match error["type"]:
        case "extra_forbidden":
            known = f"; there are {', '.join(sorted(fields))}" if fields else ""
            return f"there is no such field{nearest(str(error['loc'][-1]), fields) or known}"
        case "missing":
            return "this field is missing"
        case "literal_error":
            return f"use one of {', '.join(_WORD.findall(str(context['expected'])))}"
        case "string_type":
            return "this must be text; put it in quotes if it looks like a number or true/false"
        case "int_type" | "int_from_float":
            return "this must be a whole number"
        case "float_type":
            return "this must be a number"
        case "bool_type":
            return "this must be true or false"
        case "tuple_type" | "list_type":
            return "this must be a list"
        case "model_type" | "dict_type":
            return 'this must be a mapping of "name: value" lines'
        case "string_pattern_mismatch":
            return f"this must match {context['pattern']}"
        case "value_error":
            return str(context["error"])
        case _:
            message = str(error["msg"])
            return message[:1].lower() + message[1:]
