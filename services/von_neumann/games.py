"""Games of two players in normal form. Runs in a worker."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import combinations

from mesh.errors import FailedPrecondition
from services.von_neumann.models import Equilibrium, Game, GameResult

Row = list[Fraction]
Matrix = list[Row]


def solve_game(game: Game) -> GameResult:
    """Equilibria: one of a zero-sum game by its two linear programs, all of a small game by support enumeration."""
    if game.column_payoffs is None:
        return _solve_zero_sum(game.row_payoffs)
    return _solve_bimatrix(game.row_payoffs, game.column_payoffs)


def _solve_zero_sum(rows: Sequence[Sequence[float]]) -> GameResult:
    """The minimax theorem (von Neumann 1928): both programs have the same value."""
    row_strategy, value = _maximin(rows)
    column_strategy, _ = _maximin([[-payoff for payoff in column] for column in zip(*rows, strict=True)])
    equilibrium = Equilibrium(
        row_strategy=row_strategy, column_strategy=column_strategy, row_value=value, column_value=-value + 0.0
    )
    return GameResult(value=value, equilibria=[equilibrium])


def _maximin(rows: Sequence[Sequence[float]]) -> tuple[list[float], float]:
    """The mixed strategy of the row player with the best worst case, and that."""
    # Imported here: support enumeration needs neither, and they cost half a second.
    import numpy as np
    from scipy.optimize import linprog

    payoffs = np.array(rows)
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


def _solve_bimatrix(rows: Sequence[Sequence[float]], columns: Sequence[Sequence[float]]) -> GameResult:
    """Support enumeration (Nisan et al., Algorithmic Game Theory, algorithm 3.4) in exact arithmetic.

    In floating point equal payoffs differ in the last digit: of random games with one decimal place nashpy 0.0.43
    misses equilibria in one of four. Probabilities of 0 are let in, which finds an equilibrium of every degenerate
    game, too, though of those not all.
    """
    row_payoffs, column_payoffs = _exact(rows), _exact(columns)
    found = {}
    for row_strategy, column_strategy in _equilibria(row_payoffs, column_payoffs):
        found[tuple(row_strategy), tuple(column_strategy)] = Equilibrium(
            row_strategy=[float(share) for share in row_strategy],
            column_strategy=[float(share) for share in column_strategy],
            row_value=float(_expected(row_strategy, row_payoffs, column_strategy)),
            column_value=float(_expected(row_strategy, column_payoffs, column_strategy)),
        )
    return GameResult(value=None, equilibria=list(found.values()))


def _equilibria(rows: Matrix, columns: Matrix) -> Iterator[tuple[Row, Row]]:
    transposed = [list(column) for column in zip(*columns, strict=True)]
    height, width = len(rows), len(rows[0])
    for size in range(1, min(height, width) + 1):
        for row_support in combinations(range(height), size):
            for column_support in combinations(range(width), size):
                column_strategy = _indifferent(rows, row_support, column_support)
                row_strategy = column_strategy and _indifferent(transposed, column_support, row_support)
                if row_strategy and column_strategy:
                    yield row_strategy, column_strategy


def _indifferent(payoffs: Matrix, own: tuple[int, ...], others: tuple[int, ...]) -> Row | None:
    """The mix over `others` to which all of `own` are best answers; None when there is none, or no single one."""
    equal = [[*(payoffs[row][column] for column in others), Fraction(-1), Fraction(0)] for row in own]
    total = [*[Fraction(1)] * len(others), Fraction(0), Fraction(1)]
    solution = _solve([*equal, total])
    if solution is None or min(solution[:-1]) < 0:
        return None
    *shares, value = solution
    strategy = [Fraction(0)] * len(payoffs[0])
    for column, share in zip(others, shares, strict=True):
        strategy[column] = share
    best = max(sum(payoff * share for payoff, share in zip(row, strategy, strict=True)) for row in payoffs)
    return strategy if best == value else None


def _solve(system: Matrix) -> Row | None:
    """The solution of a square system by elimination, None when it is singular; its right side is the last column."""
    for step in range(len(system)):
        pivot = next((row for row in range(step, len(system)) if system[row][step]), None)
        if pivot is None:
            return None
        system[step], system[pivot] = system[pivot], system[step]
        lead = system[step][step]
        system[step] = [value / lead for value in system[step]]
        for row, factor in enumerate([line[step] for line in system]):
            if row != step and factor:
                system[row] = [value - factor * known for value, known in zip(system[row], system[step], strict=True)]
    return [row[-1] for row in system]


def _exact(payoffs: Sequence[Sequence[float]]) -> Matrix:
    """The decimals that people wrote, not the doubles next to them."""
    return [[Fraction(repr(payoff)) for payoff in row] for row in payoffs]


def _expected(row_strategy: Row, payoffs: Matrix, column_strategy: Row) -> Fraction:
    return sum(
        (
            share * payoff * other
            for share, line in zip(row_strategy, payoffs, strict=True)
            for payoff, other in zip(line, column_strategy, strict=True)
        ),
        start=Fraction(0),
    )
