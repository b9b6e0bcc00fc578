"""Monte Carlo simulation, by numpy. Runs in a worker."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mesh.errors import FailedPrecondition, InvalidInput
from services.von_neumann.expressions import Algebra, read
from services.von_neumann.models import (
    Discrete,
    Exponential,
    Normal,
    Simulation,
    SimulationResult,
    Triangular,
    Uniform,
    Variable,
)
from services.von_neumann.vocabulary import ARITIES

Array = NDArray[np.float64]

_CHUNK = 50_000


def _log(value: Any, base: Any = None) -> Any:
    return np.log(value) if base is None else np.log(value) / np.log(base)


def _erf(value: Any) -> Any:
    # Imported here: scipy costs some tenths of a second, and few formulas need it.
    from scipy.special import erf

    return erf(value)


# Only with the arities of the vocabulary: a second argument of most of these is where numpy writes its result.
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "tanh": np.tanh,
    "erf": _erf,
    "exp": np.exp,
    "log": _log,
    "ln": np.log,
    "sqrt": np.sqrt,
    "abs": np.abs,
    "floor": np.floor,
    "ceil": np.ceil,
    "sign": np.sign,
    "min": lambda *values: functools.reduce(np.minimum, values),
    "max": lambda *values: functools.reduce(np.maximum, values),
}


def simulate(task: Simulation, report: Callable[[float, str], None]) -> SimulationResult:
    """Sample in chunks, telling how far it is; the same seed gives the same samples."""
    generator = np.random.default_rng(task.seed)
    found = np.empty(task.samples)
    for start in range(0, task.samples, _CHUNK):
        end = min(start + _CHUNK, task.samples)
        samples = {name: _draw(variable, generator, end - start) for name, variable in task.variables.items()}
        with np.errstate(all="ignore"):
            found[start:end] = read(task.expression, _algebra(samples))
        report(end / task.samples, f"{end} of {task.samples} samples")
    bad = int(np.count_nonzero(~np.isfinite(found)))
    if bad:
        raise FailedPrecondition(
            f"{bad} of {task.samples} samples are no finite numbers.",
            reason="NOT_FINITE",
            field="expression",
            fix="Look for divisions by zero, and for roots and logarithms of negative numbers.",
        )
    stdev = float(found.std(ddof=1))
    return SimulationResult(
        samples=task.samples,
        mean=float(found.mean()),
        stdev=stdev,
        standard_error=stdev / task.samples**0.5,
        minimum=float(found.min()),
        maximum=float(found.max()),
        quantiles={f"{share:g}": float(np.quantile(found, share)) for share in task.quantiles},
        share_at_most_threshold=None if task.threshold is None else float((found <= task.threshold).mean()),
    )


def _algebra(samples: Mapping[str, Array]) -> Algebra:
    def variable(name: str) -> Array:
        if name not in samples:
            raise InvalidInput(
                f"The expression has {name}, which is no variable.",
                field="variables",
                fix=f"There are: {', '.join(samples)}.",
            )
        return samples[name]

    return Algebra(
        number=float,
        operators={"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "pow": np.power},
        functions=_FUNCTIONS,
        constants={"pi": np.pi, "e": np.e, "E": np.e},
        variable=variable,
        arities=ARITIES,
    )


def _draw(variable: Variable, generator: np.random.Generator, count: int) -> Array:
    match variable:
        case Normal(distribution="normal", mean=mean, stdev=stdev):
            return generator.normal(mean, stdev, count)
        case Normal(mean=mean, stdev=stdev):
            return generator.lognormal(mean, stdev, count)
        case Uniform(low=low, high=high):
            return generator.uniform(low, high, count)
        case Triangular(low=low, mode=mode, high=high):
            return generator.triangular(low, mode, high, count)
        case Exponential(mean=mean):
            return generator.exponential(mean, count)
        case Discrete(values=values, weights=weights):
            shares = np.array(weights) / sum(weights) if weights else None
            return generator.choice(np.array(values), count, p=shares)
