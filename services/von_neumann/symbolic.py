"""Symbolic mathematics, by sympy. Runs in a worker."""

import math
from typing import Any

import sympy
from sympy.core.sympify import SympifyError

from mesh.errors import FailedPrecondition, InvalidInput
from services.von_neumann.expressions import Algebra, read, read_equation
from services.von_neumann.models import SymbolicResult, SymbolicTask

_LONGEST_RESULT = 100_000
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
    number=lambda number: sympy.Integer(number) if isinstance(number, int) else sympy.Float(str(number)),
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
)


def solve_symbolic(task: SymbolicTask) -> SymbolicResult:
    """Do one operation; raises InvalidInput for what is no formula, FailedPrecondition when there is no answer."""
    try:
        return _solve(task)
    except (NotImplementedError, SympifyError, ValueError, TypeError, ArithmeticError, AttributeError) as err:
        raise FailedPrecondition(
            f"There is no closed form that could be found: {str(err).splitlines()[0] if str(err) else err!r}.",
            reason="NO_CLOSED_FORM",
            fix="Simplify the expression, or evaluate it with numbers.",
        ) from err


def _solve(task: SymbolicTask) -> SymbolicResult:
    variable = sympy.Symbol(task.variable)
    if task.operation == "solve":
        solutions = sympy.solve(read_equation(task.expression, _ALGEBRA), variable, dict=False)
        texts = [_text(solution) for solution in solutions]
        return SymbolicResult(
            result=", ".join(texts) or "no solution",
            latex=", ".join(sympy.latex(solution) for solution in solutions),
            solutions=texts,
            value=_number(solutions[0]) if len(solutions) == 1 else None,
        )
    found = _transform(task, read(task.expression, _ALGEBRA), variable)
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
            return sympy.limit(expression, variable, read(task.point, _ALGEBRA, field="point"))
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
        raise NotImplementedError("the integral has none")
    return found


def _evaluate(task: SymbolicTask, expression: Any) -> Any:
    values = {sympy.Symbol(name): sympy.Float(str(value)) for name, value in task.values.items()}
    missing = sorted(str(symbol) for symbol in expression.free_symbols - values.keys())
    if missing:
        raise InvalidInput(
            f"No value is given for {', '.join(missing[:5])}.", field="values", fix='Write {"x": 1.5}, for each name.'
        )
    return sympy.N(expression.subs(values), task.digits)


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
