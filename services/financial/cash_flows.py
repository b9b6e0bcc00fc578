"""Net present value, internal rate of return and its modified form, for flows at equal intervals."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from services.financial.limits import CashFlows, PeriodRate, check_bounded
from services.financial.roots import find_root
from services.tool_server import InvalidArgument, Result

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float64]

__all__ = ["Irr", "Mirr", "Npv", "irr", "mirr", "npv"]

# The search runs over u = ln(1 + rate): from -99.99 % to about 880 million per cent, closest around zero.
_LOWEST_U = math.log(1e-4)
_HIGHEST_U = 16.0
_GRID_SCALE = 1e-3
_GRID_POINTS = 4001
_TOUCH = 1e-13  # of the sum of the discounted flows' sizes: nearer to zero than that, two roots have met
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
        named = ", ".join(f"{round(rate, 12) + 0.0:.6g}" for rate in rates[:_NAMED_RATES])
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
        value = float(numpy_financial.mirr(cash_flows, finance_rate, reinvest_rate))  # type: ignore[no-untyped-call]
    return Mirr(mirr=check_bounded(value, "cash_flows"))


def _trim(flows: Sequence[float]) -> "Vector":
    """Leave out the zeros at both ends, which do not move a root, and scale to a largest flow of one."""
    import numpy as np

    row = np.trim_zeros(np.asarray(flows, dtype=np.float64))
    return row / np.abs(row).max() if row.size else row


def _count_sign_changes(flows: "Vector") -> int:
    signs = flows[flows != 0] > 0
    return int((signs[1:] != signs[:-1]).sum())


def _scaled_npv(flows: "Vector", u: float) -> float:
    """The net present value at rate e^u - 1; below zero times e^(u * periods), so that it never overflows."""
    import numpy as np

    periods = np.arange(len(flows))
    return float(flows @ np.exp(-u * periods if u >= 0 else u * periods[::-1]))


def _scaled_npv_grid(flows: "Vector", u: "Vector") -> "Vector":
    """The same for many `u`, which are sorted, by Horner's scheme."""
    import numpy as np

    later, earlier = u[u >= 0], u[u < 0]
    above, below = np.zeros_like(later), np.zeros_like(earlier)
    factor_above, factor_below = np.exp(-later), np.exp(earlier)
    for first, last in zip(flows, flows[::-1], strict=True):
        above = above * factor_above + last
        below = below * factor_below + first
    return np.concatenate([below, above])


def _find_single(flows: "Vector") -> list[float]:
    """The root of flows that change sign once: by Descartes' rule of signs there is exactly one."""
    low, high = _scaled_npv(flows, _LOWEST_U), _scaled_npv(flows, _HIGHEST_U)
    if low == 0 or high == 0 or (low > 0) == (high > 0):
        return []
    return [find_root(lambda u: _scaled_npv(flows, u), _LOWEST_U, _HIGHEST_U)]


def _find_all(flows: "Vector") -> list[float]:
    """Every root within the search range: where the value changes sign, and where it turns back at or beyond zero."""
    import numpy as np

    ends = math.asinh(_LOWEST_U / _GRID_SCALE), math.asinh(_HIGHEST_U / _GRID_SCALE)
    grid = _GRID_SCALE * np.sinh(np.linspace(*ends, _GRID_POINTS))
    slopes = flows * np.arange(len(flows))  # of the value by -u
    values, steepness = _scaled_npv_grid(flows, grid), _scaled_npv_grid(slopes, grid)

    def value(u: float) -> float:
        return _scaled_npv(flows, u)

    roots = [float(u) for u in grid[values == 0]]
    for low, high in _cells(grid, values[:-1] * values[1:] < 0):
        roots.append(find_root(value, low, high))
    for low, high in _cells(grid, (values[:-1] * values[1:] > 0) & (steepness[:-1] * steepness[1:] <= 0)):
        turn = find_root(lambda u: _scaled_npv(slopes, u), low, high)
        if abs(value(turn)) <= _TOUCH * _scaled_npv(np.abs(flows), turn):
            roots.append(turn)
        elif value(turn) * value(low) < 0:
            roots += [find_root(value, low, turn), find_root(value, turn, high)]
    roots.sort()
    return [u for index, u in enumerate(roots) if index == 0 or u - roots[index - 1] > _SAME_RATE]


def _cells(grid: "Vector", chosen: "NDArray[np.bool_]") -> list[tuple[float, float]]:
    return [(float(grid[at]), float(grid[at + 1])) for at in chosen.nonzero()[0]]
