"""Whether a step does well: a pure judgement of loads.

A rate of few requests says little, so nothing is passed before `min_requests` have ended. Failure needs no such
patience: when so many have failed that the bound would be broken even if all others up to `min_requests` did well, the
judgement is certain. A 99th percentile is the slowest of few requests: `_FEW` slow ones are forgiven, such as the first
on a new connection.
"""

import enum
import math
from dataclasses import dataclass

from mesh.xds import Load
from services.control_plane.canary.plan import Plan

_FEW = 2
_NOISE = 5.0
"""Milliseconds by which a candidate may be slower than `max_p99_ratio` allows: among fast answers a ratio is noise."""


class Verdict(enum.Enum):
    """What to do with a canary."""

    WAIT = "wait"
    PASS = "pass"  # noqa: S105 - no password
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict and its reason, for a person."""

    verdict: Verdict
    reason: str


def judge(plan: Plan, *, elapsed: float, candidate: Load, stable: Load, stable_p99: float | None = None) -> Judgement:
    """Judge a step that began `elapsed` seconds ago by the loads since then.

    `stable_p99` is what the stable subset did before, in milliseconds, for steps in which it gets too few requests.
    """
    if cause := _errors(plan, candidate) or _latency(plan, candidate, p99_of_stable(plan, stable) or stable_p99):
        return Judgement(Verdict.ABORT, cause)
    if candidate.requests < plan.min_requests:
        reason = f"{candidate.requests} of {plan.min_requests} requests to {plan.candidate}"
        return Judgement(Verdict.WAIT, reason)
    if elapsed < plan.interval:
        return Judgement(Verdict.WAIT, f"{math.ceil(plan.interval - elapsed)} s more")
    return Judgement(Verdict.PASS, "")


def judge_baseline(plan: Plan, stable: Load) -> Judgement:
    """Whether enough is known of the stable subset to compare with."""
    if p99_of_stable(plan, stable) is not None:
        return Judgement(Verdict.PASS, "")
    return Judgement(Verdict.WAIT, f"{stable.timed} of {plan.min_requests} requests to {plan.stable}, to compare with")


def p99_of_stable(plan: Plan, stable: Load) -> float | None:
    """The stable subset's 99th percentile in milliseconds, None while too few requests tell."""
    return stable.quantile(0.99) if stable.timed >= plan.min_requests else None


def _errors(plan: Plan, candidate: Load) -> str:
    percent = candidate.error_percent
    certain = 100.0 * candidate.failed / max(candidate.requests, plan.min_requests)
    if percent is None or certain <= plan.max_error_percent:
        return ""
    return (
        f"{candidate.failed} of {candidate.requests} requests to {plan.candidate} failed "
        f"({percent:.1f} %), more than {plan.max_error_percent:g} %"
    )


def _latency(plan: Plan, candidate: Load, stable_p99: float | None) -> str:
    bounds: list[tuple[float, str]] = []
    if plan.max_p99 is not None:
        bounds.append((plan.max_p99, f"{plan.max_p99:g} ms"))
    if plan.max_p99_ratio is not None and stable_p99 is not None and math.isfinite(stable_p99):
        limit = max(plan.max_p99_ratio * stable_p99, stable_p99 + _NOISE)
        bounds.append((limit, f"{plan.max_p99_ratio:g} times the {stable_p99:g} ms of {plan.stable}"))
    for limit, text in bounds:
        slow = candidate.slower_than(limit)
        if slow > max(_FEW, 0.01 * max(candidate.timed, plan.min_requests)):
            return f"p99 of {plan.candidate} is {_text(candidate.quantile(0.99))}, more than {text}"
    return ""


def _text(milliseconds: float | None) -> str:
    return "no answer at all" if milliseconds is None or math.isinf(milliseconds) else f"{milliseconds:g} ms"
