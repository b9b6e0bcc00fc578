"""Reads formulas. The text goes through Python's parser, which executes nothing, and only arithmetic gets further.

A formula is read twice: first into sizes, which refuses numbers that would fill the memory, then into its values.
"""

import ast
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from types import MappingProxyType
from typing import Any

from mesh.errors import InvalidInput

MAX_DEPTH = 60
MAX_NODES = 1_000
MAX_EXPONENT = 1_000
MAX_INTEGER = 10**60
MAX_BITS = 14_000
"""Of numbers that arise from numbers alone; some 4,200 digits."""

_GROWING = ("factorial", "gamma")

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,30}")
_EQUALS = re.compile(r"(?<![<>=!])=(?!=)")
_BINARY: dict[type[ast.operator], str] = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.Div: "div",
    ast.Pow: "pow",
}


@dataclass(frozen=True, slots=True)
class Algebra:
    """What a formula is made into: numbers, operators by name, functions and constants by name, and variables.

    `arities` are the least and the most arguments of the functions that take more than one.
    """

    number: Callable[[int | float], Any]
    operators: Mapping[str, Callable[[Any, Any], Any]]
    functions: Mapping[str, Callable[..., Any]]
    constants: Mapping[str, Any]
    variable: Callable[[str], Any]
    arities: Mapping[str, tuple[int, int]] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The words that one kind of formula may have, to check it where its algebra is not at hand."""

    functions: Collection[str]
    constants: Collection[str]
    arities: Mapping[str, tuple[int, int]]

    def check(self, text: str, *, is_equation: bool = False, field: str = "expression") -> None:
        """Raise InvalidInput as `read` would."""
        for side in _split(text, field) if is_equation else [text]:
            _check(side, self, field)


def read(text: str, algebra: Algebra, *, field: str = "expression") -> Any:
    """Make a formula into a value of the algebra; raises InvalidInput that names the place at fault."""
    _check(text, algebra, field)
    return _Reader(algebra, field).read(text)


def read_equation(text: str, algebra: Algebra, *, field: str = "expression") -> Any:
    """The same for "left = right", as left - right, and for a formula, which is set to 0."""
    values = [read(side, algebra, field=field) for side in _split(text, field)]
    return values[0] if len(values) == 1 else algebra.operators["sub"](*values)


def _split(text: str, field: str) -> list[str]:
    sides = _EQUALS.split(text.replace("==", "="))
    if len(sides) > 2:
        raise InvalidInput("It has more than one equals sign.", field=field, fix="Give one equation.")
    return sides


def _check(text: str, words: Algebra | Vocabulary, field: str) -> None:
    _Reader(_sizes(words, field), field).read(text)


def _sizes(words: Algebra | Vocabulary, field: str) -> Algebra:
    """Formulas as their exact value where they consist of numbers only, else None."""

    def guard(bits: int) -> None:
        if bits > MAX_BITS:
            raise InvalidInput(
                f"A number in it has more than {MAX_BITS // 10 * 3} digits.",
                reason="NOT_A_FORMULA",
                field=field,
                fix="Use smaller numbers.",
            )

    def combine(name: str) -> Callable[[Any, Any], Any]:
        def apply(left: Fraction | None, right: Fraction | None) -> Fraction | None:
            if name == "pow":
                return _power(left, right, guard, field)
            if left is None or right is None:
                return None
            guard(_bits(left) + _bits(right))
            match name:
                case "add":
                    return left + right
                case "sub":
                    return left - right
                case "mul":
                    return left * right
                case _:
                    return left / right if right else None

        return apply

    def function(name: str) -> Callable[..., None]:
        def apply(*arguments: Fraction | None) -> None:
            if name in _GROWING and any(value is not None and abs(value) > MAX_EXPONENT for value in arguments):
                raise InvalidInput(
                    f"{name} is taken of a number larger than {MAX_EXPONENT}.",
                    reason="NOT_A_FORMULA",
                    field=field,
                    fix="Use a smaller one.",
                )

        return apply

    return Algebra(
        number=Fraction,
        operators={name: combine(name) for name in _BINARY.values()},
        functions={name: function(name) for name in words.functions},
        constants=dict.fromkeys(words.constants),
        variable=lambda _: None,
        arities=words.arities,
    )


def _power(
    base: Fraction | None, exponent: Fraction | None, guard: Callable[[int], None], field: str
) -> Fraction | None:
    if exponent is None:
        return None
    if abs(exponent) > MAX_EXPONENT:
        raise InvalidInput(
            f"An exponent is larger than {MAX_EXPONENT}.", reason="NOT_A_FORMULA", field=field, fix="Use a smaller one."
        )
    if base is None or (base == 0 and exponent <= 0):
        return None
    if base not in (0, 1, -1):
        guard(int(_bits(base) * abs(exponent)) + 1)
    return base ** int(exponent) if exponent.denominator == 1 else None


def _bits(number: Fraction) -> int:
    return number.numerator.bit_length() + number.denominator.bit_length()


class _Reader:
    def __init__(self, algebra: Algebra, field: str) -> None:
        self._algebra = algebra
        self._field = field
        self._nodes = 0

    def read(self, text: str) -> Any:
        if not text.isascii():
            bad = next(character for character in text if not character.isascii())
            raise self._error(f"{bad!r} is not known here.", "Use ASCII: pi for the circle's constant, * for products.")
        if text.count("(") > MAX_DEPTH:
            raise self._error(f"It has more than {MAX_DEPTH} parentheses.", "Make it simpler.")
        try:
            # People write powers with ^, which binds less than a sum in Python.
            tree = ast.parse(text.strip().replace("^", "**"), mode="eval")
        except (SyntaxError, ValueError, MemoryError, RecursionError) as err:
            where = f" near character {err.offset}" if isinstance(err, SyntaxError) and err.offset else ""
            raise self._error(f"It is no formula{where}.", "Write it like 2*x + sin(y)^2.") from err
        return self._build(tree.body, 0)

    def _build(self, node: ast.expr, depth: int) -> Any:
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > MAX_NODES:
            raise self._error("It is nested too deeply, or too long.", "Make it simpler.")
        match node:
            case ast.Constant(value=bool() | None):
                raise self._refuse(node)
            case ast.Constant(value=int(number)):
                if number > MAX_INTEGER:
                    raise self._error("A number has more than 60 digits.", "Use a smaller one.")
                return self._algebra.number(number)
            case ast.Constant(value=float(number)):
                if number == float("inf"):
                    raise self._error("A number is too large.", "Use a smaller one, or oo for infinity.")
                return self._algebra.number(number)
            case ast.Name(id=name):
                return self._name(name)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                zero = self._algebra.number(0)
                return self._algebra.operators["sub"](zero, self._build(operand, depth + 1))
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self._build(operand, depth + 1)
            case ast.BinOp(op=operator, left=left, right=right) if type(operator) in _BINARY:
                combine = self._algebra.operators[_BINARY[type(operator)]]
                return combine(self._build(left, depth + 1), self._build(right, depth + 1))
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                return self._call(name, arguments, depth + 1)
            case _:
                raise self._refuse(node)

    def _name(self, name: str) -> Any:
        if name in self._algebra.constants:
            return self._algebra.constants[name]
        if name in self._algebra.functions:
            raise self._error(f"{name} is a function.", f"Write {name}(...).")
        if _NAME.fullmatch(name) is None:
            raise self._error(f"{name[:40]!r} is no name.", "Use letters and digits, at most 31.")
        return self._algebra.variable(name)

    def _call(self, name: str, arguments: list[ast.expr], depth: int) -> Any:
        function = self._algebra.functions.get(name)
        if function is None:
            known = ", ".join(sorted(self._algebra.functions))
            raise self._error(f"There is no function {name[:40]!r}.", f"There are: {known}.")
        least, most = self._algebra.arities.get(name, (1, 1))
        if not least <= len(arguments) <= most:
            takes = f"{least}" if least == most else f"{least} to {most}"
            raise self._error(f"{name} does not take {len(arguments)} arguments.", f"It takes {takes}.")
        return function(*(self._build(argument, depth) for argument in arguments))

    def _refuse(self, node: ast.expr) -> InvalidInput:
        return self._error(
            f"{type(node).__name__} is not allowed here, at character {node.col_offset + 1}.",
            "Use numbers, names, + - * / ^, parentheses and functions.",
        )

    def _error(self, summary: str, fix: str) -> InvalidInput:
        return InvalidInput(summary, reason="NOT_A_FORMULA", field=self._field, fix=fix)
