"""Linear programs, by HiGHS in scipy. Runs in a worker."""

from typing import Any

import numpy as np
from scipy.optimize import linprog

from mesh.errors import FailedPrecondition
from services.von_neumann.models import LinearProgram, LinearResult

# scipy.optimize.linprog's status codes.
_OPTIMAL, _INFEASIBLE, _UNBOUNDED, _TROUBLE = 0, 2, 3, 4


def solve_program(program: LinearProgram) -> LinearResult:
    """Solve a linear program; that it is infeasible or unbounded is an answer, too."""
    sign = -1.0 if program.maximize else 1.0
    found = _solve(program, sign * np.array(program.objective))
    match _status(program, found):
        case "infeasible":
            return LinearResult(status="infeasible", message="No values meet all constraints and bounds.")
        case "unbounded":
            better = "larger" if program.maximize else "smaller"
            return LinearResult(status="unbounded", message=f"The objective can be made {better} without end.")
    slack = [
        float(abs(np.dot(c.coefficients, found.x) - c.bound)) if c.relation != "==" else 0.0
        for c in program.constraints
    ]
    return LinearResult(
        status="optimal",
        # Adding zero turns -0.0 into 0.0.
        value=float(sign * found.fun) + 0.0,
        solution=[float(value) + 0.0 for value in found.x],
        slack=slack,
        shadow_prices=None if program.integer else _shadow_prices(program, found, sign),
    )


def _solve(program: LinearProgram, objective: Any) -> Any:
    upper = [
        (np.array(c.coefficients) * flip, c.bound * flip)
        for c in program.constraints
        if c.relation != "==" and (flip := 1.0 if c.relation == "<=" else -1.0)
    ]
    equal = [(c.coefficients, c.bound) for c in program.constraints if c.relation == "=="]
    return linprog(
        objective,
        A_ub=np.array([row for row, _ in upper]) if upper else None,
        b_ub=np.array([bound for _, bound in upper]) if upper else None,
        A_eq=np.array([row for row, _ in equal]) if equal else None,
        b_eq=np.array([bound for _, bound in equal]) if equal else None,
        bounds=program.bounds if program.bounds is not None else (0, None),
        integrality=np.ones(len(program.objective)) if program.integer else None,
        method="highs",
    )


def _status(program: LinearProgram, found: Any) -> str:
    status = found.status
    if status == _TROUBLE and "unbounded or infeasible" in found.message:
        # HiGHS stops as soon as it knows that it is one of the two. With nothing to optimize it can only be the latter.
        status = _INFEASIBLE if _solve(program, np.zeros(len(program.objective))).status else _UNBOUNDED
    names = {_OPTIMAL: "optimal", _INFEASIBLE: "infeasible", _UNBOUNDED: "unbounded"}
    if status not in names:
        raise FailedPrecondition(f"The solver gave up: {found.message}", reason="NOT_SOLVED", fix="Scale the numbers.")
    return names[status]


def _shadow_prices(program: LinearProgram, found: Any, sign: float) -> list[float]:
    inequalities, equalities = iter(found.ineqlin.marginals), iter(found.eqlin.marginals)
    prices = []
    for constraint in program.constraints:
        if constraint.relation == "==":
            prices.append(sign * float(next(equalities)) + 0.0)
        else:
            flip = 1.0 if constraint.relation == "<=" else -1.0
            prices.append(sign * flip * float(next(inequalities)) + 0.0)
    return prices
