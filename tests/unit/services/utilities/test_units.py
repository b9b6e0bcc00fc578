from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.tool_server import InvalidArgument
from services.utilities.units import convert_units

Call = Callable[..., Awaitable[dict[str, Any]]]
Refusal = Callable[..., Awaitable[str]]


@pytest.mark.parametrize(
    ("value", "from_unit", "to_unit", "expected"),
    [
        (3, "mile", "km", 4.828032),
        (100, "degC", "degF", 212.0),
        # As floats it would be 35.59999999999994.
        (2, "°C", "°F", 35.6),
        (-40, "degF", "degC", -40.0),
        (36, "km/h", "m/s", 10.0),
        (2, "mile per hour", "km/h", 3.218688),
        (2, "µm", "nm", 2000.0),
        (2, "m²", "cm²", 20000.0),
        (2, "%", "ppm", 20000.0),
        (2, "Mbit", "MB", 0.25),
        (1, "1/s", "Hz", 1.0),
        (1, "J/(kg*K)", "m^2/s**2/K", 1.0),
        # The exact values of the SI of 2019 and of the international inch.
        (1, "eV", "J", 1.602176634e-19),
        (1, "inch", "cm", 2.54),
    ],
)
async def test_known_conversion(call: Call, value: float, from_unit: str, to_unit: str, expected: float) -> None:
    found = await call("convert_units", value=value, from_unit=from_unit, to_unit=to_unit)
    assert found["value"] == expected
    assert found["unit"] == to_unit


async def test_a_factor_is_told_where_there_is_one(call: Call) -> None:
    mile = await call("convert_units", value=5, from_unit="mile", to_unit="km")
    assert mile["factor"] == 1.609344
    assert (mile["from_unit_name"], mile["unit_name"]) == ("mile", "kilometer")
    celsius = await call("convert_units", value=5, from_unit="degC", to_unit="K")
    assert celsius["factor"] is None


async def test_logarithmic_units_are_converted(call: Call) -> None:
    found = await call("convert_units", value=20, from_unit="dBm", to_unit="mW")
    assert found["value"] == pytest.approx(100)
    assert found["factor"] is None


@pytest.mark.parametrize(
    ("value", "from_unit", "to_unit", "words"),
    [
        (1, "kilometrr", "m", "from_unit: there is no unit 'kilometrr'. Did you mean kilometre or kilometer"),
        (1, "megawat", "W", "Did you mean megawatt"),
        (1, "KM", "m", "Did you mean km?"),
        (1, "__class__", "m", "from_unit: there is no unit '__class__'"),
        (1, "convet", "m", "Did you mean count?"),
        (1, "m", "s", "to_unit: s (second) measures time, m (meter) measures length. Use a unit of length."),
        (1, "C", "degF", "C (coulomb) measures"),
        (1, "9**9**9", "m", "from_unit: '9**9**9' is no unit"),
        (1, "m**9**9**9", "m", "from_unit: 'm**9**9**9' is no unit"),
        (1, "m^999", "m", "from_unit: 'm^999' is no unit"),
        (1, "__import__('os')", "m", "is no unit"),
        (1, "", "m", "from_unit: string should have at least 1 character"),
        (1, "m" * 101, "m", "from_unit: 101 characters; at most 100"),
        (float("nan"), "m", "m", "value: input should be"),
        (float("inf"), "m", "m", "value: input should be a finite number"),
        (-1e308, "km", "m", "value: the result is too large"),
        pytest.param(
            *(-1, "mW", "dBm", "value: the result is too large, or no number"),
            marks=pytest.mark.filterwarnings("ignore:.*encountered in log:RuntimeWarning"),
        ),
        (1e300, "km^9", "m^9", "value: the result is too large"),
        ("many", "m", "m", "value: input should be a valid number"),
    ],
)
async def test_bad_input_is_answered_with_field_cause_and_fix(
    refusal: Refusal, value: Any, from_unit: str, to_unit: str, words: str
) -> None:
    assert words in await refusal("convert_units", value=value, from_unit=from_unit, to_unit=to_unit)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("unit", ["a" * 99 + "!", "°" * 99 + "!", "m " * 49 + "!", "(" * 100, "m^" * 50])
async def test_no_unit_takes_for_ever_to_be_refused(refusal: Refusal, unit: str) -> None:
    assert "is no unit" in await refusal("convert_units", value=1, from_unit=unit, to_unit="m")


@given(st.text(alphabet="abmsk°%()*/^·_-.0123456789 ²µ\n", min_size=1, max_size=30))
def test_any_text_is_a_unit_or_refused_as_none(text: str) -> None:
    try:
        convert_units(1.0, text, "m")
    except InvalidArgument as err:
        assert err.field in {"from_unit", "to_unit"}


@given(
    st.floats(min_value=-1e12, max_value=1e12),
    st.sampled_from([("m", "inch"), ("degC", "degF"), ("kWh", "J"), ("mile/hour", "m/s")]),
)
def test_a_unit_there_and_back_is_the_same(value: float, pair: tuple[str, str]) -> None:
    there = convert_units(value, *pair).value
    assert convert_units(there, *reversed(pair)).value == pytest.approx(value, rel=1e-12, abs=1e-12)
