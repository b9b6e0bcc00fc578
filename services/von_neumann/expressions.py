"""Reads formulas. The text goes through Python's parser, which executes nothing, and only arithmetic gets further."""

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mesh.errors import InvalidInput

MAX_DEPTH = 60
MAX_NODES = 1_000
MAX_EXPONENT = 1_000
MAX_INTEGER = 10**60

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
    """What a formula is made into: numbers, operators by name, functions and constants by name, and variables."""

    number: Callable[[int | float], Any]
    operators: Mapping[str, Callable[[Any, Any], Any]]
    functions: Mapping[str, Callable[..., Any]]
    constants: Mapping[str, Any]
    variable: Callable[[str], Any]


def read(text: str, algebra: Algebra, *, field: str = "expression") -> Any:
    """Make a formula into a value of the algebra; raises InvalidInput that names the place at fault."""
    return _Reader(algebra, field).read(text)


def read_equation(text: str, algebra: Algebra, *, field: str = "expression") -> Any:
    """The same for "left = right", as left - right, and for a formula, which is set to 0."""
    sides = _EQUALS.split(text.replace("==", "="))
    if len(sides) > 2:
        raise InvalidInput("It has more than one equals sign.", field=field, fix="Give one equation.")
    values = [read(side, algebra, field=field) for side in sides]
    return values[0] if len(values) == 1 else algebra.operators["sub"](*values)


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
                if number in {float("inf")}:
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
                name = _BINARY[type(operator)]
                if name == "pow":
                    self._check_exponent(right)
                return self._algebra.operators[name](self._build(left, depth + 1), self._build(right, depth + 1))
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                return self._call(name, [self._build(argument, depth + 1) for argument in arguments])
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

    def _call(self, name: str, arguments: list[Any]) -> Any:
        function = self._algebra.functions.get(name)
        if function is None:
            known = ", ".join(sorted(self._algebra.functions))
            raise self._error(f"There is no function {name[:40]!r}.", f"There are: {known}.")
        try:
            return function(*arguments)
        except TypeError as err:
            raise self._error(f"{name} does not take {len(arguments)} arguments.", "See how it is written.") from err

    def _check_exponent(self, node: ast.expr) -> None:
        """A tower of numbers such as 9^9^9 would fill the memory before anybody could stop it."""
        for inner in ast.walk(node):
            if isinstance(inner, ast.Constant) and isinstance(inner.value, int | float) and inner.value > MAX_EXPONENT:
                raise self._error(f"An exponent is larger than {MAX_EXPONENT}.", "Use a smaller one.")
            is_power = isinstance(inner, ast.BinOp) and isinstance(inner.op, ast.Pow)
            if is_power and not any(isinstance(leaf, ast.Name) for leaf in ast.walk(inner)):
                raise self._error("An exponent is itself a power of numbers.", "Write the number.")

    def _refuse(self, node: ast.expr) -> InvalidInput:
        return self._error(
            f"{type(node).__name__} is not allowed here, at character {node.col_offset + 1}.",
            "Use numbers, names, + - * / ^, parentheses and functions.",
        )

    def _error(self, summary: str, fix: str) -> InvalidInput:
        return InvalidInput(summary, reason="NOT_A_FORMULA", field=self._field, fix=fix)
