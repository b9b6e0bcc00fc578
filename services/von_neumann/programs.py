"""Linear programs, by HiGHS in scipy. Runs in a worker."""

from typing import Any

import numpy as np
from scipy.optimize import linprog

from mesh.errors import FailedPrecondition
from services.von_neumann.models import LinearProgram, LinearResult

# scipy.optimize.linprog's status codes.
_OPTIMAL, _INFEASIBLE, _UNBOUNDED = 0, 2, 3


def solve_program(program: LinearProgram) -> LinearResult:
    """Solve a linear program; that it is infeasible or unbounded is an answer, too."""
    sign = -1.0 if program.maximize else 1.0
    upper = [
        (np.array(c.coefficients) * flip, c.bound * flip)
        for c in program.constraints
        if c.relation != "==" and (flip := 1.0 if c.relation == "<=" else -1.0)
    ]
    equal = [(c.coefficients, c.bound) for c in program.constraints if c.relation == "=="]
    found = linprog(
        sign * np.array(program.objective),
        A_ub=np.array([row for row, _ in upper]) if upper else None,
        b_ub=np.array([bound for _, bound in upper]) if upper else None,
        A_eq=np.array([row for row, _ in equal]) if equal else None,
        b_eq=np.array([bound for _, bound in equal]) if equal else None,
        bounds=program.bounds if program.bounds is not None else (0, None),
        integrality=np.ones(len(program.objective)) if program.integer else None,
        method="highs",
    )
    if found.status == _INFEASIBLE:
        return LinearResult(status="infeasible")
    if found.status == _UNBOUNDED:
        return LinearResult(status="unbounded")
    if found.status != _OPTIMAL:
        raise FailedPrecondition(f"The solver gave up: {found.message}", reason="NOT_SOLVED", fix="Scale the numbers.")
    slack = [
        float(abs(np.dot(c.coefficients, found.x) - c.bound)) if c.relation != "==" else 0.0
        for c in program.constraints
    ]
    return LinearResult(
        status="optimal",
        value=float(sign * found.fun),
        solution=[float(value) for value in found.x],
        slack=slack,
        shadow_prices=None if program.integer else _shadow_prices(program, found, sign),
    )


def _shadow_prices(program: LinearProgram, found: Any, sign: float) -> list[float]:
    inequalities, equalities = iter(found.ineqlin.marginals), iter(found.eqlin.marginals)
    prices = []
    for constraint in program.constraints:
        if constraint.relation == "==":
            prices.append(sign * float(next(equalities)))
        else:
            flip = 1.0 if constraint.relation == "<=" else -1.0
            prices.append(sign * flip * float(next(inequalities)))
    return prices
