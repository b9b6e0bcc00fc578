"""Formulas are read, and nothing else is."""

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import InvalidInput
from services.von_neumann.expressions import Algebra, read, read_equation
from services.von_neumann.vocabulary import SYMBOLIC

NUMBERS = Algebra(
    number=float,
    operators={
        "add": lambda left, right: left + right,
        "sub": lambda left, right: left - right,
        "mul": lambda left, right: left * right,
        "div": lambda left, right: left / right,
        "pow": lambda left, right: left**right,
    },
    functions={"double": lambda value: 2 * value, "max": max, "factorial": math.gamma, "gamma": math.gamma},
    constants={"pi": 3.0},
    variable={"x": 5.0, "y": 2.0}.__getitem__,
    arities={"max": (1, 3)},
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2*3", 7.0),
        ("2^3 + 1", 9.0),
        ("-x^2", -25.0),
        ("2^x^1", 32.0),
        ("x/y - 1", 1.5),
        ("double(x + pi)", 16.0),
        ("max(x, y)^2 + max(1, 2)^2", 29.0),
        ("1e3", 1000.0),
        (" ( x ) ", 5.0),
    ],
)
def test_arithmetic_has_its_usual_meaning(text, value):
    assert read(text, NUMBERS) == value


@pytest.mark.parametrize(("text", "value"), [("x = y", 3.0), ("x == 2*y", 1.0), ("x", 5.0)])
def test_an_equation_is_its_left_less_its_right(text, value):
    assert read_equation(text, NUMBERS) == value


ATTACKS = [
    "__import__('os').system('id')",
    "().__class__.__bases__[0]",
    "x.__class__",
    "lambda: 1",
    "[i for i in (1,)]",
    "{1: 2}",
    "(1, 2)",
    "x[0]",
    "f'{x}'",
    "'text'",
    "b'bytes'",
    "1 if x else 2",
    "x and y",
    "not x",
    "x < y",
    "x := 1",
    "await x",
    "double(*x)",
    "double(value=1)",
    "(double)(x)(y)",
    "open(x)",
    "True",
    "None",
    "...",
    "1j",
    "x; y",
    "x\ny",
    "import os",
    "",
    "   ",
    "1 +",
    "((((",
    "(" * 2000,
    "-" * 1999 + "1",
    "+".join(["x"] * 900),
    "9**9**9",
    "9^(9^9)",
    "2^1001",
    "2^(1000*1001)",
    "(9^999)^999",
    "x^(10^9)",
    "2^(x + 0*1)^(1e3*2)",
    "factorial(10^9)",
    "gamma(1001.5)",
    "(2^999)*(2^999)*(2^999)*(2^999)*(2^999)*(2^999)*(2^999)*(2^999)*(2^999)*(2^999)*(2^999)*(2^999)*(2^999)*(2^999)*(2^999)",
    "1" * 61,
    "1e400",
    "x" * 40,
    "_x",
    "π",
    "x²",
    "eval(x)",
    "double",
    "double(x, y)",
    "nothing(x)",
]


@pytest.mark.parametrize("text", ATTACKS)
def test_what_is_no_formula_is_refused_with_the_field_and_a_fix(text):
    with pytest.raises(InvalidInput) as caught:
        read(text, NUMBERS, field="here")
    assert caught.value.field == "here"
    assert caught.value.fix


@given(st.text(max_size=60))
def test_any_text_is_a_value_or_a_refusal(text):
    with contextlib.suppress(InvalidInput, ArithmeticError, KeyError):
        read(text, NUMBERS)


@pytest.mark.parametrize("text", ["9^999", "(x + 1)^1000", "2^x^x", "factorial(1000)", "1/3^900", "0^0", "1^1000"])
def test_numbers_of_a_size_that_can_be_written_are_let_in(text):
    SYMBOLIC.check(text)


# "double" by itself is a variable where there is no such function.
@pytest.mark.parametrize("text", [text for text in ATTACKS if text != "double"])
def test_a_vocabulary_refuses_what_reading_refuses(text):
    with pytest.raises(InvalidInput):
        SYMBOLIC.check(text)


def test_two_equals_signs_are_refused():
    with pytest.raises(InvalidInput, match="more than one equals sign"):
        read_equation("x = y = 1", NUMBERS)
