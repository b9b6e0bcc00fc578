"""Symbolic mathematics, by sympy. Runs in a worker."""

import math
from typing import Any

import sympy
from sympy.core.sympify import SympifyError
from sympy.polys.polyerrors import BasePolynomialError

from mesh.errors import FailedPrecondition, InvalidInput
from services.von_neumann.expressions import Algebra, read, read_equation
from services.von_neumann.models import SymbolicResult, SymbolicTask
from services.von_neumann.vocabulary import ARITIES

_LONGEST_RESULT = 100_000
_GUARD_DIGITS = 10
# How sympy says that there is no way that it knows.
_GIVES_UP = (
    NotImplementedError,
    SympifyError,
    BasePolynomialError,
    ValueError,
    TypeError,
    ArithmeticError,
    AttributeError,
    LookupError,
)
_FUNCTIONS: dict[str, Any] = {
    "sin": sympy.sin,
    "cos": sympy.cos,
    "tan": sympy.tan,
    "asin": sympy.asin,
    "acos": sympy.acos,
    "atan": sympy.atan,
    "sinh": sympy.sinh,
    "cosh": sympy.cosh,
    "tanh": sympy.tanh,
    "exp": sympy.exp,
    "log": sympy.log,
    "ln": sympy.log,
    "sqrt": sympy.sqrt,
    "abs": sympy.Abs,
    "floor": sympy.floor,
    "ceil": sympy.ceiling,
    "sign": sympy.sign,
    "factorial": sympy.factorial,
    "gamma": sympy.gamma,
    "erf": sympy.erf,
    "min": sympy.Min,
    "max": sympy.Max,
}
_ALGEBRA = Algebra(
    # Decimals are exact, as their writer meant them: a float would claim digits that nobody gave.
    number=lambda number: sympy.Integer(number) if isinstance(number, int) else sympy.Rational(repr(number)),
    operators={
        "add": lambda left, right: left + right,
        "sub": lambda left, right: left - right,
        "mul": lambda left, right: left * right,
        "div": lambda left, right: left / right,
        "pow": lambda left, right: left**right,
    },
    functions=_FUNCTIONS,
    constants={"pi": sympy.pi, "e": sympy.E, "E": sympy.E, "I": sympy.I, "oo": sympy.oo, "inf": sympy.oo},
    variable=sympy.Symbol,
    arities=ARITIES,
)


def solve_symbolic(task: SymbolicTask) -> SymbolicResult:
    """Do one operation; raises InvalidInput for what is no formula, FailedPrecondition when there is no answer."""
    try:
        return _solve(task)
    except _GIVES_UP as err:
        raise FailedPrecondition(
            f"There is no closed form that could be found: {str(err).splitlines()[0] if str(err) else err!r}.",
            reason="NO_CLOSED_FORM",
            fix="Simplify the expression, or evaluate it with numbers.",
        ) from err


def _solve(task: SymbolicTask) -> SymbolicResult:
    variable = sympy.Symbol(task.variable)
    if task.operation == "solve":
        equation = read_equation(task.expression, _ALGEBRA)
        _check_defined(equation)
        # Only for this question: a simpler form may have other solutions, where a denominator was 0.
        if sympy.simplify(equation) == 0:
            return SymbolicResult(result=f"every {task.variable}", latex=r"\top", solutions=None)
        if variable not in equation.free_symbols and equation.free_symbols:
            raise InvalidInput(
                f"There is no {task.variable} in the equation.",
                field="variable",
                fix=f"Solve for {' or '.join(sorted(map(str, equation.free_symbols)))}.",
            )
        solutions = sympy.solve(equation, variable, dict=False)
        texts = [_text(solution) for solution in solutions]
        return SymbolicResult(
            result=", ".join(texts) or "no solution",
            latex=", ".join(sympy.latex(solution) for solution in solutions),
            solutions=texts,
            value=_number(solutions[0]) if len(solutions) == 1 else None,
        )
    expression = read(task.expression, _ALGEBRA)
    _check_defined(expression)
    found = _transform(task, expression, variable)
    _check_defined(found)
    return SymbolicResult(result=_text(found), latex=sympy.latex(found), value=_number(found))


def _transform(task: SymbolicTask, expression: Any, variable: sympy.Symbol) -> Any:
    match task.operation:
        case "simplify":
            return sympy.simplify(expression)
        case "expand":
            return sympy.expand(expression)
        case "factor":
            return sympy.factor(expression)
        case "differentiate":
            return sympy.diff(expression, variable, task.order)
        case "integrate":
            return _integrate(task, expression, variable)
        case "limit":
            return _limit(task, expression, variable)
        case "series":
            return sympy.series(expression, variable, read(task.point, _ALGEBRA, field="point"), task.terms)
        case _:
            return _evaluate(task, expression)


def _integrate(task: SymbolicTask, expression: Any, variable: sympy.Symbol) -> Any:
    if task.lower is None or task.upper is None:
        found = sympy.integrate(expression, variable)
    else:
        lower, upper = read(task.lower, _ALGEBRA, field="lower"), read(task.upper, _ALGEBRA, field="upper")
        found = sympy.integrate(expression, (variable, lower, upper))
    if found.has(sympy.Integral):
        # What sympy could not integrate it gives back as it was.
        raise ValueError("no integral is known")
    return found


def _limit(task: SymbolicTask, expression: Any, variable: sympy.Symbol) -> Any:
    point = read(task.point, _ALGEBRA, field="point")
    found = {
        direction: sympy.limit(expression, variable, point, "-" if direction == "left" else "+")
        for direction in ("left", "right")
        if task.direction in {direction, "both"} and (direction == "right" or point.is_infinite is not True)
    } or {"left": sympy.limit(expression, variable, point)}
    if any(value.has(sympy.AccumBounds) for value in found.values()):
        raise FailedPrecondition(
            "There is no limit: the values do not settle.", reason="NO_LIMIT", field="point", fix="Take another point."
        )
    left, right = (found.get("left"), found.get("right")) if len(found) == 2 else (None, None)
    if left is not None and right is not None and sympy.simplify(left - right) != 0 and left != right:
        raise FailedPrecondition(
            f"There is no limit: from the left it is {left}, from the right {right}.",
            reason="NO_LIMIT",
            field="direction",
            fix='Ask for one side: "left" or "right".',
        )
    return next(iter(found.values()))


def _evaluate(task: SymbolicTask, expression: Any) -> Any:
    precision = task.digits + _GUARD_DIGITS
    values = {sympy.Symbol(name): sympy.Float(repr(value), precision) for name, value in task.values.items()}
    missing = sorted(str(symbol) for symbol in expression.free_symbols - values.keys())
    if missing:
        raise InvalidInput(
            f"No value is given for {', '.join(missing[:5])}.", field="values", fix='Write {"x": 1.5}, for each name.'
        )
    return sympy.N(expression.subs(values), task.digits)


def _check_defined(expression: Any) -> None:
    if expression.has(sympy.nan, sympy.zoo):
        raise FailedPrecondition(
            "It is not defined: there is a division by zero in it, or a difference of infinities.",
            reason="UNDEFINED",
            field="expression",
            fix="Look for denominators that are 0, and for integrals over a pole.",
        )


def _text(expression: Any) -> str:
    text = str(expression)
    if len(text) > _LONGEST_RESULT:
        raise FailedPrecondition(
            f"The result has {len(text)} characters.", reason="RESULT_TOO_LONG", fix="Ask for something smaller."
        )
    return text


def _number(expression: Any) -> float | None:
    """The expression as a finite real number, or None."""
    if not getattr(expression, "is_number", False) or expression.is_real is not True:
        return None
    value = float(expression)
    return value if math.isfinite(value) else None
