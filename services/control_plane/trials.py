"""Which revisions are in force, which of them are on probation, and which proxy gets which.

candidates[0]  known to be good ──> candidates[1:]  on probation ──> staged  for the first proxies only
"""

from collections.abc import Collection
from dataclasses import dataclass

from mesh.config.document import Policy
from mesh.config.history import Revision
from mesh.errors import Unavailable
from services.control_plane.document_reader import Reading

PROBATION_SECONDS = 30.0
"""How long a refusal undoes a revision that all proxies get.

A connected Envoy answers within milliseconds, a slow one within seconds; one that comes later meets a document that
others live with, and a refusal then says more of the proxy than of the change.
"""


@dataclass(slots=True, eq=False)
class Candidate:
    """A revision with what it means. `ends_at` is when its probation ends, on the clock of the rollout."""

    revision: Revision
    reading: Reading
    ends_at: float

    @property
    def number(self) -> int:
        """The revision's number."""
        return self.revision.number

    @property
    def policy(self) -> Policy:
        """What the revision means."""
        return self.reading.policy


class Trials:
    """The candidates of this control plane; `AdsServer` asks `policy_for`."""

    def __init__(self) -> None:
        self.candidates: list[Candidate] = []
        self.staged: Candidate | None = None
        self.first: frozenset[str] = frozenset()

    @property
    def all(self) -> list[Candidate]:
        """All that some proxy gets, oldest first."""
        return [*self.candidates, *([self.staged] if self.staged is not None else [])]

    @property
    def current(self) -> Candidate:
        """What all proxies get; raises Unavailable before the document has been read."""
        if not self.candidates:
            raise Unavailable("The control plane is starting: it has not read the document yet.", reason="NOT_STARTED")
        return self.candidates[-1]

    def policy_for(self, node_id: str) -> Policy | None:
        """The policy of a proxy that is among the first of a staged change; None for that of all."""
        return self.staged.policy if self.staged is not None and node_id in self.first else None

    def chain_for(self, node_id: str) -> list[Candidate]:
        """What a proxy's resources may come from, oldest first; the first one is known to be good.

        Empty before the document has been read.
        """
        return self.all if node_id in self.first else list(self.candidates)

    def holds(self, number: int) -> bool:
        """True while a revision is in force or staged."""
        return any(found.number == number for found in self.all)

    def stage(self, candidate: Candidate, first: Collection[str]) -> None:
        """Give a change to the first proxies."""
        self.staged, self.first = candidate, frozenset(first)

    def unstage(self) -> None:
        """Give what all get to the first proxies, too."""
        self.staged, self.first = None, frozenset()

    def drop(self, number: int) -> Candidate:
        """Take a revision and all that were made upon it out of force; returns what is in force then."""
        self.candidates = [found for found in self.candidates if found.number < number] or self.candidates[:1]
        self.unstage()
        return self.current

    def end_probations(self, now: float) -> int:
        """Forget what came before the newest candidate whose probation is over; its number, 0 when none is over."""
        over = [position for position, found in enumerate(self.candidates) if position and found.ends_at <= now]
        if not over:
            return 0
        self.candidates = self.candidates[over[-1] :]
        return self.candidates[0].number

    def next_end(self) -> float | None:
        """When the next probation ends."""
        return min((found.ends_at for found in self.candidates[1:]), default=None)
