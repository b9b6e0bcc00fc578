"""Units of measurement, by pint."""

import difflib
import math
import re
import threading
import tokenize
from decimal import Decimal
from functools import cache
from typing import Annotated, Any

from pydantic import Field

from services.tool_server import InvalidArgument, Result, quote

__all__ = ["Quantity", "convert_units"]

Unit = Annotated[str, Field(min_length=1, max_length=100, description="for example km, mile/hour, degC, kWh")]

# What a unit may look like: names, each with a small exponent. Pint would evaluate any arithmetic, 9**9**9 included.
# Part by part: a name can be split into names in many ways, and one pattern for all of it would try them for ever.
_EXPONENT = r"(?:\s*(?:\^|\*\*)\s*-?\d{1,2}(?:\.\d{1,2})?)?"
_START = re.compile(r"(?:1\s*/)?")
_PART = re.compile(rf"[\s(*/·]|\){_EXPONENT}|[^\W\d%][\w°]*{_EXPONENT}|[°%]\w*")
_PREFIXES = ("kilo", "mega", "giga", "tera", "centi", "milli", "micro", "nano", "hecto", "deci", "kibi", "mebi", "gibi")
# What pint's tokenizer and its arithmetic raise for a text that is no unit.
_NOT_A_UNIT = (
    ValueError,
    TypeError,
    ArithmeticError,
    AttributeError,
    LookupError,
    SyntaxError,
    AssertionError,
    tokenize.TokenError,
)
_lock = threading.Lock()


class Quantity(Result):
    """A value in a unit. The names say how the units were understood.

    `factor` is what the value was multiplied by; null when there is an offset (temperatures) or a logarithm (decibels).
    """

    value: float
    unit: str
    unit_name: str
    from_unit_name: str
    factor: float | None


def convert_units(value: Annotated[float, Field(allow_inf_nan=False)], from_unit: Unit, to_unit: Unit) -> Quantity:
    """Convert a value from one unit to another of the same dimension."""
    # Pint's registry is not made for several threads.
    with _lock:
        try:
            # Decimals give 35.6 degF for 2 degC where floats give 35.59999999999994.
            found = _convert(value, from_unit, to_unit, is_exact=True)
        except TypeError:
            # Decibels and octaves: pint takes logarithms of floats only.
            found = _convert(value, from_unit, to_unit, is_exact=False)
    if not math.isfinite(found.value):
        raise InvalidArgument("value", "the result is too large, or no number.", "Use a value that has one.")
    return found


def _convert(value: float, from_unit: str, to_unit: str, *, is_exact: bool) -> Quantity:
    registry = _registry(is_exact=is_exact)
    number = Decimal if is_exact else float
    source, target = _parse(registry, from_unit, "from_unit"), _parse(registry, to_unit, "to_unit")
    if source.dimensionality != target.dimensionality:
        raise InvalidArgument(
            "to_unit",
            f"{_describe(to_unit, target)}, {_describe(from_unit, source)}.",
            f"Use a unit of {_dimension(source)}.",
        )
    try:
        result, zero, one, two = (
            float(registry.Quantity(number(text), source).to(target).magnitude)
            for text in (repr(float(value)), "0", "1", "2")
        )
    except (ValueError, ArithmeticError) as err:
        raise InvalidArgument("value", f"it cannot be converted: {err}.", "Use another value.") from err
    is_factor = zero == 0 and math.isclose(two, 2 * one, rel_tol=1e-9)
    return Quantity(
        value=result,
        unit=to_unit,
        unit_name=str(target),
        from_unit_name=str(source),
        factor=one if is_factor and math.isfinite(one) else None,
    )


@cache
def _registry(*, is_exact: bool) -> Any:
    # Imported here: it costs half a second and 20 MB that a server without conversions need not pay.
    import pint

    return pint.UnitRegistry(autoconvert_offset_to_baseunit=True, non_int_type=Decimal if is_exact else float)


def _parse(registry: Any, text: str, field: str) -> Any:
    import pint

    if not _looks_like_a_unit(text):
        raise InvalidArgument(field, f"{quote(text)} is no unit.", "Write it like km/h or m^2.")
    try:
        return registry.Unit(text.strip().replace("%", "percent"))
    except pint.UndefinedUnitError as err:
        name = err.unit_names if isinstance(err.unit_names, str) else next(iter(err.unit_names), text)
        near = _find_near(registry, name)
        fix = f"Did you mean {' or '.join(near)}?" if near else "Write it like km, mile or degC."
        raise InvalidArgument(field, f"there is no unit {quote(name)}.", fix) from err
    except _NOT_A_UNIT as err:
        raise InvalidArgument(field, f"{quote(text)} is no unit.", "Write it like km/h or m^2.") from err


def _looks_like_a_unit(text: str) -> bool:
    start = _START.match(text)
    at = first = start.end() if start is not None else 0
    while found := _PART.match(text, at):
        at = found.end()
    return first < at == len(text)


def _find_near(registry: Any, name: str) -> list[str]:
    wanted = name.lower()
    known = {unit.lower(): unit for unit in registry}
    if registry.parse_unit_name(wanted):
        return [wanted]
    for prefix in _PREFIXES:
        if wanted.startswith(prefix):
            rest = difflib.get_close_matches(wanted.removeprefix(prefix), known, n=3, cutoff=0.6)
            if rest:
                return [prefix + known[found] for found in rest]
    return [known[found] for found in difflib.get_close_matches(wanted, known, n=3, cutoff=0.6)]


def _describe(text: str, unit: Any) -> str:
    name = str(unit)
    return f"{text}{f' ({name})' if name != text else ''} measures {_dimension(unit)}"


def _dimension(unit: Any) -> str:
    return (
        ("a plain number" if unit.dimensionless else str(unit.dimensionality))
        .replace("[", "")
        .replace("]", "")
        .replace(" ** ", "^")
    )
