"""What an operator asks for."""

import itertools
import math
from dataclasses import dataclass

from mesh.errors import InvalidInput
from mesh.model import check_service_name
from mesh.xds import cluster_of

DEFAULT_STEPS = (5, 25, 50, 100)
DEFAULT_INTERVAL = 30.0
DEFAULT_MAX_ERROR_PERCENT = 1.0
DEFAULT_MIN_REQUESTS = 50

_MOST_STEPS = 100
_LONGEST_INTERVAL = 3600.0
"""Seconds; older load reports are forgotten."""
_MOST_REQUESTS = 1_000_000


@dataclass(frozen=True, slots=True)
class Plan:
    """One canary: `service` goes from the subset `stable` to `candidate`.

    `steps` are the candidate's shares in percent. `interval` is in seconds, `max_p99` in milliseconds; None: any.
    """

    service: str
    stable: str
    candidate: str
    steps: tuple[int, ...] = DEFAULT_STEPS
    interval: float = DEFAULT_INTERVAL
    max_error_percent: float = DEFAULT_MAX_ERROR_PERCENT
    min_requests: int = DEFAULT_MIN_REQUESTS
    max_p99: float | None = None
    max_p99_ratio: float | None = None

    @property
    def stable_cluster(self) -> str:
        """The Envoy cluster of the stable subset."""
        return cluster_of(f"{self.service}/{self.stable}")

    @property
    def candidate_cluster(self) -> str:
        """The Envoy cluster of the candidate."""
        return cluster_of(f"{self.service}/{self.candidate}")

    def split(self, percent: int) -> dict[str, int]:
        """The service's split when the candidate gets `percent` of the requests; both subsets stay in it."""
        return {f"{self.service}/{self.stable}": 100 - percent, f"{self.service}/{self.candidate}": percent}

    def check(self) -> None:
        """Raise InvalidInput for what cannot be done."""
        check_service_name(self.service, field="plan.service")
        if self.stable == self.candidate:
            raise InvalidInput(
                f"{self.stable!r} cannot take the place of itself.", field="plan.candidate", fix="Name another subset."
            )
        self._check_steps()
        _check_range("plan.interval", self.interval, 1.0, _LONGEST_INTERVAL, "seconds")
        _check_range("plan.max_error_percent", self.max_error_percent, 0.0, 100.0, "percent")
        _check_range("plan.min_requests", self.min_requests, 1, _MOST_REQUESTS, "requests")
        if self.max_p99 is not None:
            _check_range("plan.max_p99", self.max_p99, 1.0, 3_600_000.0, "milliseconds")
        if self.max_p99_ratio is not None:
            _check_range("plan.max_p99_ratio", self.max_p99_ratio, 1.0, 1000.0, "times")

    def _check_steps(self) -> None:
        grows = all(first < second for first, second in itertools.pairwise(self.steps))
        if not self.steps or len(self.steps) > _MOST_STEPS or not grows or self.steps[0] < 1 or self.steps[-1] != 100:
            raise InvalidInput(
                f"{', '.join(map(str, self.steps)) or 'Nothing'} cannot be the steps of a canary.",
                field="plan.steps",
                fix="Write growing percentages that end with 100, such as 5,25,50,100.",
            )


def _check_range(field: str, value: float, least: float, most: float, unit: str) -> None:
    if not math.isfinite(value) or not least <= value <= most:
        raise InvalidInput(f"{value:g} {unit} are out of range.", field=field, fix=f"Use {least:g} to {most:g} {unit}.")
