"""Values a project with the tools of the service `financial`: an agent that uses tools through the mesh."""

from mesh.agent import TaskContext
from mesh.errors import FailedPrecondition, Internal
from services.von_neumann.models import Project, RateAndValue, Valuation

FINANCIAL = "financial"

_STEPS = (-0.05, -0.02, 0.0, 0.02, 0.05)
_TIMEOUT = 20.0


async def value_project(project: Project, task: TaskContext) -> Valuation:
    """Value a project: its net present value, its internal rate of return, and how the value depends on the rate."""
    task.report(0.0, f"asking {FINANCIAL} for the net present value")
    npv = await _npv(project, project.rate, task)
    task.report(0.2, f"asking {FINANCIAL} for the internal rate of return")
    irr, note = await _irr(project, task)
    rates = sorted({round(rate, 10) for rate in project.rates or _around(project.rate)})
    sensitivity = []
    for number, rate in enumerate(rates):
        task.report(0.4 + 0.6 * number / len(rates), f"value at a rate of {rate:g}")
        sensitivity.append(RateAndValue(rate=rate, npv=await _npv(project, rate, task)))
    return Valuation(npv=npv, irr=irr, is_worthwhile=npv > 0, sensitivity=sensitivity, note=note)


async def _npv(project: Project, rate: float, task: TaskContext) -> float:
    arguments = {"rate": rate, "cash_flows": project.cash_flows}
    result = await task.mesh.use_tool(FINANCIAL, "npv", arguments, timeout=_TIMEOUT)
    return _read(result.structured, "npv")


async def _irr(project: Project, task: TaskContext) -> tuple[float | None, str]:
    try:
        result = await task.mesh.use_tool(FINANCIAL, "irr", {"cash_flows": project.cash_flows}, timeout=_TIMEOUT)
    except FailedPrecondition as err:
        if err.reason != "TOOL_FAILED":
            raise
        # Many projects have none, or several: that is a fact about the project and no failure of ours.
        return None, err.summary
    return _read(result.structured, "irr"), ""


def _read(structured: object, name: str) -> float:
    value = structured.get(name) if isinstance(structured, dict) else None
    if not isinstance(value, int | float):
        raise Internal(f"The tool {name} of {FINANCIAL} gave no number.", service=FINANCIAL)
    return float(value)


def _around(rate: float) -> list[float]:
    return [rate + step for step in _STEPS if rate + step > -1]
