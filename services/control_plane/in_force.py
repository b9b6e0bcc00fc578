"""The revisions that this control plane serves, as the head of the history says."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta

from mesh.config.history import Head, Refusal, RevisionStore, Status
from mesh.errors import MeshError, NotFound
from mesh.runtime import Backoff
from mesh.state import StateStore
from mesh.telemetry import get_logger
from mesh.xds.rollout import Changed, changed_resources, choose_first
from services.control_plane.document_checks import Check, DocumentChecks
from services.control_plane.document_reader import read_layers
from services.control_plane.news import News
from services.control_plane.trials import Candidate, Trials

_log = get_logger(__name__)


class InForce:
    """Makes the candidates of a control plane from a head and publishes them; `news` tells of each publication.

    Whoever calls `adopt`, `undo`, `confirm` or `renew_secrets` sees to it that no other of these runs meanwhile.
    """

    def __init__(
        self,
        history: RevisionStore,
        store: StateStore,
        checks: DocumentChecks,
        trials: Trials,
        *,
        probation: float,
        clock: Callable[[], float],
    ) -> None:
        self.news = News()
        self._history = history
        self._store = store
        self._checks = checks
        self._trials = trials
        self._probation = probation
        self._clock = clock
        self._head = Head()
        # Revisions from this one on are out of force here, although the history may not know yet; 0 for none.
        self._doomed = 0
        # Counts as good here, although the history may not know; 0 for none.
        self._proven = 0

    async def start(self, head: Head) -> None:
        """Take up what is in force when the control plane starts."""
        self._proven = await self._find_proven(head)
        await self.adopt(head)

    async def _find_proven(self, head: Head) -> int:
        """The newest revision that had been in force for a whole probation when the active one came, else the good one.

        Control planes that are restarted before a probation ends confirm none; they would read more at each start.
        """
        if head.active <= head.good:
            return head.good
        since = (await self._history.get(head.active)).create_time - timedelta(seconds=self._probation)
        for number in range(head.active - 1, head.good, -1):
            try:
                found = await self._history.get(number)
            except NotFound:
                # The history has forgotten it, and all before it.
                return number + 1
            if not found.cause and found.create_time <= since:
                return number
        return head.good

    async def adopt(self, head: Head, check: Check | None = None) -> None:
        """Serve what a head says; `check` is what is known already of its newest revision."""
        if self._trials.candidates and (head.active, head.staged, head.newest) == (
            self._head.active,
            self._head.staged,
            self._head.newest,
        ):
            return
        # Numbers that go backwards are those of another history: Consul has lost its data.
        is_same = head.newest >= self._head.newest
        known = {found.number: found for found in self._trials.all if is_same}
        self._proven = self._proven if is_same else 0
        candidates = await self._candidates(head, known, check)
        staged = self._trials.staged
        if staged is not None and staged.number == head.active:
            # Promoted: now the others show how they take it.
            staged.ends_at = self._clock() + self._probation
        self._trials.candidates = candidates
        if head.staged and not self._is_doomed(head.staged):
            new = known.get(head.staged) or await self._candidate(head.staged, check)
            if self._trials.staged is not new:
                self._trials.stage(new, await self._choose_first(new, check))
        else:
            self._trials.unstage()
        self._head = head
        self._publish()

    async def _candidates(self, head: Head, known: dict[int, Candidate], check: Check | None) -> list[Candidate]:
        """From the newest one that is known to be good to the active one."""
        base = min(max(head.good, self._proven), head.active) or head.active
        candidates = []
        for number in range(base, head.active + 1):
            if self._is_doomed(number):
                break
            found = known.get(number) or await self._candidate(number, check)
            if found.revision.cause or (number != head.active and head.status_of(found.revision) is Status.ROLLED_BACK):
                continue
            if number != base and found is not known.get(number):
                found.ends_at = self._clock() + self._probation
            candidates.append(found)
        return candidates

    async def _candidate(self, number: int, check: Check | None) -> Candidate:
        revision = await self._history.get(number)
        if check is not None and check.reading.policy.revision == number:
            reading = check.reading
        else:
            reading = await self._checks.with_secrets(read_layers(revision.draft.layers, revision=number))
        return Candidate(revision, reading, self._clock() + self._probation)

    async def _choose_first(self, staged: Candidate, check: Check | None) -> frozenset[str]:
        if check is None:
            check = await self._checks.check(staged.revision.draft.layers, revision=staged.number, is_restored=True)
        percent = staged.policy.document.mesh.rollout.first_percent
        return choose_first(list(check.snapshots), percent, str(staged.number))

    def _is_doomed(self, number: int) -> bool:
        return 0 < self._doomed <= number

    def _publish(self) -> None:
        self._store.set_policy(self._trials.current.policy)
        self._checks.connected.refresh()
        self.news.tell()

    def changed_for(self, node_id: str, number: int) -> Changed:
        """What a revision changes for a proxy."""
        chain = self._trials.chain_for(node_id)
        position = next((at for at, found in enumerate(chain) if found.number == number), 0)
        if not position:
            return {}
        before, after = (self._checks.connected.preview(node_id, chain[at].policy) for at in (position - 1, position))
        return changed_resources(before, after) if before is not None and after is not None else {}

    def take_out(self, culprit: Candidate) -> None:
        """Take a revision, and what was made upon it, out of force here, at once; `undo` follows."""
        if culprit is self._trials.staged:
            # Others have nothing of it.
            self._trials.unstage()
        else:
            self._trials.drop(culprit.number)
        self._doomed = culprit.number
        self._publish()

    async def undo(self, number: int, cause: str, refusals: Sequence[Refusal]) -> None:
        """Undo a revision in the history, whatever it takes, and adopt what is in force then."""
        backoff = Backoff(0.1, 5.0)
        to = max(found.number for found in self._trials.candidates if found.number < number)
        while True:
            try:
                head = await self._history.undo(number, to=to, cause=cause, refusals=refusals)
                break
            except MeshError as err:
                _log.error("undo_not_kept", revision=number, reason=err.reason, error=str(err))
                await asyncio.sleep(backoff.next())
        self._doomed = 0
        await self.adopt(head)
        _log.error("change_undone", revision=number, in_force=head.active, cause=cause)

    async def confirm(self, number: int) -> None:
        """Note in the history that a revision's probation is over."""
        try:
            self._head = replace(self._head, good=(await self._history.confirm(number)).good)
        except MeshError as err:
            # Then the next control plane puts it on probation once more.
            _log.warning("probation_not_noted", revision=number, reason=err.reason, error=str(err))

    async def renew_secrets(self) -> None:
        """Look up the secrets of what is in force again; new values go to the proxies."""
        is_new = False
        for found in self._trials.all:
            reading = await self._checks.with_secrets(found.reading)
            is_new = is_new or reading.policy.secrets_version != found.policy.secrets_version
            found.reading = reading
        if is_new:
            _log.info("secrets_changed")
            self._publish()
