"""When a staged revision goes to all, and when it is undone. Pure: who asks brings the clock and the figures."""

import enum
from collections.abc import Callable

from services.control_plane.trials import Candidate

LOOK_SECONDS = 0.5
_SHORTEST_LOOK = 0.05


class Step(enum.Enum):
    """What is to be done with a staged revision now."""

    WAIT = "wait"
    PROMOTE = "promote"
    UNDO = "undo"


class StagedTrial:
    """The trial of one staged revision: it holds from the moment at which its first proxies have all of it."""

    def __init__(self, staged: Candidate, clock: Callable[[], float]) -> None:
        rollout = staged.policy.document.mesh.rollout
        self.most_percent = rollout.max_error_percent
        self.since: float | None = None
        self._hold = rollout.hold.total_seconds()
        self._clock = clock

    def note_taken(self) -> None:
        """The first proxies have it now."""
        if self.since is None:
            self.since = self._clock()

    def step(self, error_percent: float | None) -> Step:
        """What to do by the share of failed requests since `since`; None: there were none."""
        if self.since is None:
            return Step.WAIT
        if error_percent is not None and error_percent > self.most_percent:
            return Step.UNDO
        return Step.PROMOTE if self._clock() >= self.since + self._hold else Step.WAIT

    @property
    def pause(self) -> float:
        """Seconds until the next look."""
        if self.since is None:
            return LOOK_SECONDS
        return min(LOOK_SECONDS, max(_SHORTEST_LOOK, self.since + self._hold - self._clock()))
