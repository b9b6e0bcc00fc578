"""Games of two players in normal form. Runs in a worker."""

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from mesh.errors import FailedPrecondition
from services.von_neumann.models import Equilibrium, Game, GameResult

Array = NDArray[np.float64]

_MOST_EQUILIBRIA = 100


def solve_game(game: Game) -> GameResult:
    """Equilibria: one of a zero-sum game by its two linear programs, all of a small game by support enumeration."""
    rows = np.array(game.row_payoffs)
    if game.column_payoffs is None:
        return _solve_zero_sum(rows)
    return _solve_bimatrix(rows, np.array(game.column_payoffs))


def _solve_zero_sum(rows: Array) -> GameResult:
    """The minimax theorem (von Neumann 1928): both programs have the same value."""
    row_strategy, value = _maximin(rows)
    column_strategy, _ = _maximin(-rows.T)
    equilibrium = Equilibrium(
        row_strategy=row_strategy, column_strategy=column_strategy, row_value=value, column_value=-value
    )
    return GameResult(value=value, equilibria=[equilibrium])


def _maximin(payoffs: Array) -> tuple[list[float], float]:
    """The mixed strategy of the row player with the best worst case, and that."""
    count, others = payoffs.shape
    # Variables: the probabilities, then the value; maximize the value.
    objective = np.append(np.zeros(count), -1.0)
    at_most = np.hstack([-payoffs.T, np.ones((others, 1))])
    total = np.append(np.ones(count), 0.0).reshape(1, -1)
    bounds = [(0.0, None)] * count + [(None, None)]
    found = linprog(objective, A_ub=at_most, b_ub=np.zeros(others), A_eq=total, b_eq=[1.0], bounds=bounds)
    if found.status:
        raise FailedPrecondition(f"The solver gave up: {found.message}", reason="NOT_SOLVED", fix="Scale the payoffs.")
    probabilities = np.clip(found.x[:count], 0.0, 1.0)
    return [float(share) for share in probabilities / probabilities.sum()], float(-found.fun) + 0.0


def _solve_bimatrix(rows: Array, columns: Array) -> GameResult:
    # Imported here: few games need it.
    import nashpy

    equilibria = []
    with warnings.catch_warnings():
        # nashpy warns of degenerate games, for which it may miss equilibria; the docstring of the skill says so.
        warnings.simplefilter("ignore")
        for row_strategy, column_strategy in nashpy.Game(rows, columns).support_enumeration():
            if not (np.isfinite(row_strategy).all() and np.isfinite(column_strategy).all()):
                continue
            equilibria.append(
                Equilibrium(
                    row_strategy=[float(share) for share in row_strategy],
                    column_strategy=[float(share) for share in column_strategy],
                    row_value=float(row_strategy @ rows @ column_strategy),
                    column_value=float(row_strategy @ columns @ column_strategy),
                )
            )
            if len(equilibria) == _MOST_EQUILIBRIA:
                break
    return GameResult(value=None, equilibria=equilibria)
