"""A canary as it is kept: what was asked for, how far it is, what is to be done next."""

import enum
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Self

from mesh.errors import FailedPrecondition
from mesh.xds import Load
from services.control_plane.canary.plan import Plan

_FORM = 1


class Phase(enum.Enum):
    """How a canary is."""

    RUNNING = "running"
    PROMOTED = "promoted"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class Figures:
    """The load of one subset in a step; `p99` in milliseconds, None while there is none, infinite for no answer."""

    requests: int = 0
    failed: int = 0
    p99: float | None = None

    @classmethod
    def of(cls, load: Load) -> Self:
        """What of a load is told and kept."""
        return cls(load.requests, load.failed, load.quantile(0.99))


@dataclass(frozen=True, slots=True)
class Step:
    """One step that was begun. `percent` 0 only measures the stable subset; `revision` 0: not in force yet."""

    percent: int
    start_time: datetime
    revision: int = 0
    candidate: Figures = Figures()
    stable: Figures = Figures()


@dataclass(frozen=True, slots=True)
class Canary:
    """One canary, running or ended.

    `ending` tells how a running one is to end, and `cause` why, until the split that goes with it is in force.
    `stable_p99` is the last that is known of the stable subset, in milliseconds.
    """

    plan: Plan
    author: str
    start_time: datetime
    steps: tuple[Step, ...]
    phase: Phase = Phase.RUNNING
    ending: Phase | None = None
    cause: str = ""
    end_time: datetime | None = None
    stable_p99: float | None = None

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.phase is Phase.RUNNING

    @property
    def step(self) -> Step:
        """The present step, or the last one."""
        return self.steps[-1]

    @property
    def wanted_split(self) -> dict[str, int]:
        """The split that is to be in force."""
        return self.plan.split(self.step.percent)


def with_figures(canary: Canary, candidate: Figures, stable: Figures) -> Canary:
    """The canary with the figures of its present step."""
    step = replace(canary.step, candidate=candidate, stable=stable)
    return replace(canary, steps=(*canary.steps[:-1], step))


def with_revision(canary: Canary, revision: int) -> Canary:
    """The canary with the revision that brings its present step."""
    return replace(canary, steps=(*canary.steps[:-1], replace(canary.step, revision=revision)))


def with_step(canary: Canary, percent: int, now: datetime) -> Canary:
    """The canary with one more step, which is to be brought into force."""
    return replace(canary, steps=(*canary.steps, Step(percent, now)))


def with_end(canary: Canary, ending: Phase, cause: str, now: datetime) -> Canary:
    """The canary with the order to end, and the step that goes with it; of several orders the first one counts."""
    if canary.ending is not None:
        return canary
    percent = 100 if ending is Phase.PROMOTED else 0
    ordered = replace(canary, ending=ending, cause=cause)
    return ordered if percent == canary.step.percent else with_step(ordered, percent, now)


def ended(canary: Canary, phase: Phase, now: datetime, *, cause: str = "") -> Canary:
    """The canary when it has ended; `cause` takes the place of an earlier one."""
    return replace(canary, phase=phase, ending=None, cause=cause or canary.cause, end_time=now)


def to_bytes(canaries: tuple[Canary, ...]) -> bytes:
    """JSON, so that a person can read it."""
    return json.dumps({"form": _FORM, "canaries": [_plain(canary) for canary in canaries]}, indent=1).encode() + b"\n"


def from_bytes(data: bytes, *, place: str) -> tuple[Canary, ...]:
    """Read what `to_bytes` wrote; raises FailedPrecondition that names `place` for anything else."""
    try:
        content = json.loads(data)
        if content["form"] != _FORM:
            raise ValueError(f"its form is {content['form']!r}, this program reads {_FORM}")
        return tuple(_canary(each) for each in content["canaries"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise FailedPrecondition(
            f"{place} does not tell of canaries: {err}.",
            reason="STATE_CORRUPT",
            fix="Restore it, or move it away to start without canaries.",
        ) from err


def _plain(canary: Canary) -> dict[str, Any]:
    return {
        **asdict(canary),
        "start_time": canary.start_time.isoformat(),
        "end_time": canary.end_time.isoformat() if canary.end_time is not None else None,
        "phase": canary.phase.value,
        "ending": canary.ending.value if canary.ending is not None else None,
        "stable_p99": _finite(canary.stable_p99),
        "steps": [
            {
                **asdict(step),
                "start_time": step.start_time.isoformat(),
                "candidate": _plain_figures(step.candidate),
                "stable": _plain_figures(step.stable),
            }
            for step in canary.steps
        ],
    }


def _plain_figures(figures: Figures) -> dict[str, Any]:
    return {**asdict(figures), "p99": _finite(figures.p99)}


def _finite(number: float | None) -> float | None:
    """JSON has no word for infinity: -1 stands for it."""
    return -1.0 if number is not None and math.isinf(number) else number


def _figures(content: Mapping[str, Any]) -> Figures:
    p99 = content["p99"]
    return Figures(int(content["requests"]), int(content["failed"]), math.inf if p99 == -1.0 else p99)


def _canary(content: Mapping[str, Any]) -> Canary:
    plan = content["plan"]
    return Canary(
        plan=Plan(**{**plan, "steps": tuple(plan["steps"])}),
        author=str(content["author"]),
        start_time=datetime.fromisoformat(content["start_time"]),
        steps=tuple(
            Step(
                int(step["percent"]),
                datetime.fromisoformat(step["start_time"]),
                int(step["revision"]),
                _figures(step["candidate"]),
                _figures(step["stable"]),
            )
            for step in content["steps"]
        ),
        phase=Phase(content["phase"]),
        ending=Phase(content["ending"]) if content["ending"] is not None else None,
        cause=str(content["cause"]),
        end_time=datetime.fromisoformat(content["end_time"]) if content["end_time"] is not None else None,
        stable_p99=math.inf if content["stable_p99"] == -1.0 else content["stable_p99"],
    )
