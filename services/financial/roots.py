"""Roots of continuous functions, by Brent's method."""

from collections.abc import Callable

__all__ = ["find_root"]


def find_root(function: Callable[[float], float], low: float, high: float) -> float:
    """The root between `low` and `high`, to the precision of a double; `function` has opposite signs there, or is zero.

    Algorithm: R. P. Brent, Algorithms for Minimization Without Derivatives (1973), chapter 4, as scipy has it.
    """
    from scipy.optimize import brentq

    return float(brentq(function, low, high, xtol=1e-15, rtol=1e-14, maxiter=500))
