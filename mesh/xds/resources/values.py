"""How durations, shares and texts of the mesh document are written in Envoy's JSON form."""

from datetime import timedelta
from typing import Any

from mesh.config.document import HeaderMatch, Text

_MILLION = 1_000_000


def seconds(value: timedelta) -> str:
    """A google.protobuf.Duration."""
    micros = value // timedelta(microseconds=1)
    return f"{micros // _MILLION}.{micros % _MILLION:06d}s" if micros % _MILLION else f"{micros // _MILLION}s"


def fraction(percent: float) -> dict[str, Any]:
    """An envoy.type.v3.FractionalPercent, exact to a millionth."""
    return {"numerator": round(percent * 10_000), "denominator": "MILLION"}


def always() -> dict[str, Any]:
    """A RuntimeFractionalPercent of all requests."""
    return {"default_value": {"numerator": 100}}


def text_matcher(text: Text) -> dict[str, Any]:
    """A StringMatcher; expressions must match the whole text."""
    if text.regex is not None:
        return {"safe_regex": {"regex": text.regex}}
    forms = {"exact": text.exact, "prefix": text.prefix, "suffix": text.suffix, "contains": text.contains}
    return {form: value for form, value in forms.items() if value is not None}


def header_matcher(name: str, match: HeaderMatch) -> dict[str, Any]:
    """A HeaderMatcher. What is turned round matches a request without the header, too."""
    literal: dict[str, Any] = {"name": name}
    if match.text is None:
        literal["present_match"] = match.present
    else:
        literal["string_match"] = text_matcher(match.text)
        if match.invert:
            literal["treat_missing_header_as_empty"] = True
    if match.invert:
        literal["invert_match"] = True
    return literal
