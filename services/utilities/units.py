"""Units of measurement, by pint."""

import difflib
import math
import re
import threading
from functools import cache
from typing import Annotated, Any

from pydantic import Field

from services.tool_server import InvalidArgument, Result, quote

__all__ = ["Quantity", "convert_units"]

Unit = Annotated[str, Field(min_length=1, max_length=100, description="for example km, mile/hour, degC, kWh")]

_LARGEST = 1e300
# What a unit may look like: names, each with a small exponent. Pint would evaluate any arithmetic, 9**9**9 included.
_EXPONENT = r"(?:\s*(?:\^|\*\*)\s*-?\d{1,2}(?:\.\d{1,2})?)?"
_UNIT = re.compile(rf"(?:1\s*/)?(?:[\s(*/·]|\){_EXPONENT}|[^\W\d%][\w°]*{_EXPONENT}|[°%]\w*)+")
_lock = threading.Lock()


class Quantity(Result):
    """A value in a unit. `factor` is what the value was multiplied by; null when there is an offset (temperatures)."""

    value: float
    unit: str
    factor: float | None


def convert_units(
    value: Annotated[float, Field(ge=-_LARGEST, le=_LARGEST, allow_inf_nan=False)], from_unit: Unit, to_unit: Unit
) -> Quantity:
    """Convert a value from one unit to another of the same dimension."""
    # Pint's registry is not made for several threads.
    with _lock:
        source, target = _parse(from_unit, "from_unit"), _parse(to_unit, "to_unit")
        if source.dimensionality != target.dimensionality:
            raise InvalidArgument(
                "to_unit",
                f"{to_unit} measures {_dimension(target)}, {from_unit} measures {_dimension(source)}.",
                f"Use a unit of {_dimension(source)}.",
            )
        registry = _registry()
        try:
            result = float(registry.Quantity(value, source).to(target).magnitude)
            zero = float(registry.Quantity(0.0, source).to(target).magnitude)
            one = float(registry.Quantity(1.0, source).to(target).magnitude)
        except (ValueError, OverflowError, ArithmeticError) as err:
            raise InvalidArgument("value", f"it cannot be converted: {err}.", "Use another value.") from err
    if not math.isfinite(result):
        raise InvalidArgument("value", "the result is too large.", "Use a smaller value.")
    return Quantity(value=result, unit=to_unit, factor=one if zero == 0 else None)


@cache
def _registry() -> Any:
    # Imported here: it costs half a second and 20 MB that a server without conversions need not pay.
    import pint

    return pint.UnitRegistry(autoconvert_offset_to_baseunit=True)


def _parse(text: str, field: str) -> Any:
    import pint

    registry = _registry()
    if _UNIT.fullmatch(text) is None:
        raise InvalidArgument(field, f"{quote(text)} is no unit.", "Write it like km/h or m^2.")
    try:
        return registry.Unit(text.replace("%", "percent"))
    except pint.UndefinedUnitError as err:
        names = err.unit_names if isinstance(err.unit_names, str) else next(iter(err.unit_names), text)
        near = difflib.get_close_matches(names, dir(registry), n=3, cutoff=0.6)
        fix = f"Did you mean {' or '.join(near)}?" if near else "Write it like km, mile or degC."
        raise InvalidArgument(field, f"there is no unit {quote(names)}.", fix) from err
    except Exception as err:  # pint's parser raises whatever tokenizing and arithmetic raise
        raise InvalidArgument(field, f"{quote(text)} is no unit.", "Write it like km/h or m^2.") from err


def _dimension(unit: Any) -> str:
    return (
        ("a plain number" if unit.dimensionless else str(unit.dimensionality))
        .replace("[", "")
        .replace("]", "")
        .replace(" ** ", "^")
    )
