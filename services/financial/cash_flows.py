"""Net present value, internal rate of return and its modified form, for flows at equal intervals."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from services.financial.limits import CashFlows, InvalidArgument, PeriodRate, Result, check_bounded

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Irr", "Mirr", "Npv", "irr", "mirr", "npv"]

# The search runs over u = ln(1 + rate): from -99.99 % to about 880 million per cent, closest around zero.
_LOWEST_U = math.log(1e-4)
_HIGHEST_U = 16.0
_GRID_SCALE = 1e-3
_GRID_POINTS = 4001
_TOUCH = 1e-12  # of the sum of the flows' sizes: nearer to zero than that, two roots have met
_SAME_RATE = 1e-9
_NAMED_RATES = 6


class Npv(Result):
    npv: float = Field(description="net present value at time 0, in the unit of the flows")


class Irr(Result):
    irr: float = Field(description="rate per period, as a fraction, at which the net present value is zero")


class Mirr(Result):
    mirr: float = Field(description="modified internal rate of return per period, as a fraction")


def npv(rate: PeriodRate, cash_flows: CashFlows) -> Npv:
    """Net present value of equally spaced cash flows; the first one is at time 0 and is not discounted."""
    factor = 1.0 / (1.0 + rate)
    try:
        value = math.fsum(flow * factor**period for period, flow in enumerate(cash_flows) if flow)
    except OverflowError:
        value = math.inf
    return Npv(npv=check_bounded(value, "rate"))


def irr(cash_flows: CashFlows) -> Irr:
    """Internal rate of return per period.

    Refused with an explanation when there is none, or when several rates fit (then all of them are named).
    """
    flows = _trim(cash_flows)
    changes = _count_sign_changes(flows)
    if changes == 0:
        raise InvalidArgument(
            "cash_flows",
            "there is no internal rate of return, because no flow has the opposite sign of the others.",
            "Include what is paid (negative) and what is received (positive).",
        )
    rates = [math.expm1(u) for u in (_find_single(flows) if changes == 1 else _find_all(flows))]
    if not rates:
        raise InvalidArgument(
            "cash_flows",
            "there is no internal rate of return: no rate between -99.99 % and 880 000 000 % makes the value zero.",
            "Judge the project by npv at its cost of capital.",
        )
    if len(rates) > 1:
        named = ", ".join(f"{rate:.6g}" for rate in rates[:_NAMED_RATES])
        more = ", ..." if len(rates) > _NAMED_RATES else ""
        raise InvalidArgument(
            "cash_flows",
            f"{len(rates)} internal rates of return fit: {named}{more} (the flows change sign {changes} times).",
            "Use mirr, or npv at the project's cost of capital.",
        )
    return Irr(irr=rates[0])


def mirr(
    cash_flows: CashFlows,
    finance_rate: Annotated[PeriodRate, Field(description="rate paid on the negative flows, per period")],
    reinvest_rate: Annotated[PeriodRate, Field(description="rate earned on the positive flows, per period")],
) -> Mirr:
    """Modified internal rate of return per period; unlike irr there is always exactly one."""
    if not (any(flow < 0 for flow in cash_flows) and any(flow > 0 for flow in cash_flows)):
        raise InvalidArgument(
            "cash_flows", "they need at least one negative and one positive flow.", "Include the investment."
        )
    import numpy as np
    import numpy_financial

    with np.errstate(all="ignore"):
        value = float(numpy_financial.mirr(cash_flows, finance_rate, reinvest_rate))
    return Mirr(mirr=check_bounded(value, "cash_flows"))


def _trim(flows: Sequence[float]) -> list[float]:
    """Leave out the zeros at both ends, which do not move a root, and scale to a largest flow of one."""
    used = [index for index, flow in enumerate(flows) if flow]
    if not used:
        return []
    largest = max(abs(flow) for flow in flows)
    return [flow / largest for flow in flows[used[0] : used[-1] + 1]]


def _count_sign_changes(flows: Sequence[float]) -> int:
    signs = [flow > 0 for flow in flows if flow]
    return sum(one != other for one, other in zip(signs, signs[1:], strict=False))


def _scaled_npv(flows: Sequence[float], u: float) -> float:
    """The net present value at rate e^u - 1; below zero times e^(u * periods), so that it never overflows."""
    total = 0.0
    if u >= 0:
        factor = math.exp(-u)
        for flow in reversed(flows):
            total = total * factor + flow
    else:
        factor = math.exp(u)
        for flow in flows:
            total = total * factor + flow
    return total


def _scaled_npv_grid(flows: Sequence[float], u: "NDArray[np.float64]") -> "NDArray[np.float64]":
    import numpy as np

    later, earlier = u[u >= 0], u[u < 0]
    above, below = np.zeros_like(later), np.zeros_like(earlier)
    factor_above, factor_below = np.exp(-later), np.exp(earlier)
    for first, last in zip(flows, reversed(flows), strict=True):
        above = above * factor_above + last
        below = below * factor_below + first
    return np.concatenate([below, above])  # u is sorted


def _find_single(flows: Sequence[float]) -> list[float]:
    """The root of flows that change sign once: by Descartes' rule of signs there is exactly one."""
    low, high = _scaled_npv(flows, _LOWEST_U), _scaled_npv(flows, _HIGHEST_U)
    if low == 0 or high == 0 or (low > 0) == (high > 0):
        return []
    return [_solve(lambda u: _scaled_npv(flows, u), _LOWEST_U, _HIGHEST_U)]


def _find_all(flows: Sequence[float]) -> list[float]:
    """Every root within the search range: sign changes on a fine grid, and dips towards zero between its points."""
    import numpy as np
    from scipy.optimize import minimize_scalar

    ends = math.asinh(_LOWEST_U / _GRID_SCALE), math.asinh(_HIGHEST_U / _GRID_SCALE)
    grid = _GRID_SCALE * np.sinh(np.linspace(*ends, _GRID_POINTS))
    values = _scaled_npv_grid(flows, grid)
    touch = _TOUCH * math.fsum(abs(flow) for flow in flows)

    def value(u: float) -> float:
        return _scaled_npv(flows, u)

    roots = [float(u) for u in grid[values == 0]]
    for at in np.flatnonzero(values[:-1] * values[1:] < 0):
        roots.append(_solve(value, float(grid[at]), float(grid[at + 1])))
    size = np.abs(values)
    same_sign = (values[:-2] * values[1:-1] > 0) & (values[1:-1] * values[2:] > 0)
    for at in np.flatnonzero(same_sign & (size[1:-1] <= size[:-2]) & (size[1:-1] <= size[2:])) + 1:
        low, high, sign = float(grid[at - 1]), float(grid[at + 1]), math.copysign(1.0, values[at])
        dip = minimize_scalar(lambda u, s=sign: s * value(u), bounds=(low, high), method="bounded")
        if dip.fun < -touch:
            roots += [_solve(value, low, float(dip.x)), _solve(value, float(dip.x), high)]
        elif dip.fun <= touch:
            roots.append(float(dip.x))
    roots.sort()
    return [u for index, u in enumerate(roots) if index == 0 or u - roots[index - 1] > _SAME_RATE]


def _solve(function: Callable[[float], float], low: float, high: float) -> float:
    from scipy.optimize import brentq

    return float(brentq(function, low, high, xtol=1e-15, rtol=1e-14, maxiter=500))
