"""Between canaries and their messages."""

import math
from datetime import datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from agentmesh.rollout.v1 import canary_pb2
from mesh.errors import InvalidInput
from services.control_plane.canary.plan import (
    DEFAULT_INTERVAL,
    DEFAULT_MAX_ERROR_PERCENT,
    DEFAULT_MIN_REQUESTS,
    DEFAULT_STEPS,
    Plan,
)
from services.control_plane.canary.record import Canary, Figures, Phase, Step

_PHASES = {
    Phase.RUNNING: canary_pb2.CANARY_PHASE_RUNNING,
    Phase.PROMOTED: canary_pb2.CANARY_PHASE_PROMOTED,
    Phase.ABORTED: canary_pb2.CANARY_PHASE_ABORTED,
}
NO_ANSWER = timedelta(days=365)
"""Stands for a percentile in which no answer came; a Duration has no infinity."""


def plan_from_proto(message: canary_pb2.CanaryPlan) -> Plan:
    """The plan with its defaults, checked; raises InvalidInput."""
    plan = Plan(
        service=message.service,
        stable=message.stable,
        candidate=message.candidate,
        steps=tuple(message.steps) or DEFAULT_STEPS,
        interval=_seconds(message.interval, "plan.interval") if message.HasField("interval") else DEFAULT_INTERVAL,
        max_error_percent=message.max_error_percent
        if message.HasField("max_error_percent")
        else DEFAULT_MAX_ERROR_PERCENT,
        min_requests=message.min_requests or DEFAULT_MIN_REQUESTS,
        max_p99=_seconds(message.max_p99, "plan.max_p99") * 1000 if message.HasField("max_p99") else None,
        max_p99_ratio=message.max_p99_ratio or None,
    )
    plan.check()
    return plan


def _seconds(duration: Duration, field: str) -> float:
    seconds = duration.seconds + duration.nanos / 1e9
    if seconds <= 0:
        raise InvalidInput("This must be longer than 0 s.", field=field)
    return seconds


def canary_to_proto(canary: Canary, *, waiting_for: str = "") -> canary_pb2.Canary:
    """A canary as operators see it."""
    return canary_pb2.Canary(
        plan=_plan_to_proto(canary.plan),
        phase=_PHASES[canary.phase],
        start_time=_timestamp(canary.start_time),
        end_time=_timestamp(canary.end_time) if canary.end_time is not None else None,
        steps=[_step_to_proto(step) for step in canary.steps],
        cause=canary.cause,
        waiting_for=waiting_for if canary.is_running else "",
        author=canary.author,
    )


def _plan_to_proto(plan: Plan) -> canary_pb2.CanaryPlan:
    return canary_pb2.CanaryPlan(
        service=plan.service,
        stable=plan.stable,
        candidate=plan.candidate,
        steps=plan.steps,
        interval=_duration(plan.interval * 1000),
        max_error_percent=plan.max_error_percent,
        min_requests=plan.min_requests,
        max_p99=_duration(plan.max_p99) if plan.max_p99 is not None else None,
        max_p99_ratio=plan.max_p99_ratio or 0.0,
    )


def _step_to_proto(step: Step) -> canary_pb2.CanaryStep:
    return canary_pb2.CanaryStep(
        percent=step.percent,
        start_time=_timestamp(step.start_time),
        revision=step.revision,
        candidate=_figures_to_proto(step.candidate),
        stable=_figures_to_proto(step.stable),
    )


def _figures_to_proto(figures: Figures) -> canary_pb2.CanaryLoad:
    p99 = _duration(figures.p99) if figures.p99 is not None else None
    return canary_pb2.CanaryLoad(requests=figures.requests, failed=figures.failed, p99=p99)


def _duration(milliseconds: float) -> Duration:
    duration = Duration()
    duration.FromTimedelta(NO_ANSWER if math.isinf(milliseconds) else timedelta(milliseconds=milliseconds))
    return duration


def _timestamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
