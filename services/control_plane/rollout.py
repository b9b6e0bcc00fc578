"""How a change of the mesh document reaches the proxies, and how it is undone.

    layers ──read──> policy ──dry build for every proxy──> RevisionStore ──adopt──> StateStore ──> proxies
                                                                ^                                    │ ACK, NACK
                                                                └──── undo, confirm, promote <──judge┘

Nothing is published when anything fails. A refusal that is the fault of a revision on probation takes it out of force
first and out of the history afterwards, so that a history that cannot be reached delays no rollback.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace

from mesh.config.document import Policy
from mesh.config.history import Draft, Layer, Refusal, Revision, RevisionStore, Status, stale
from mesh.errors import DocumentInvalid, FailedPrecondition, MeshError
from mesh.runtime import Backoff
from mesh.state import StateStore
from mesh.telemetry import get_logger
from mesh.xds import Answer
from mesh.xds.rollout import changed_resources
from mesh.xds.snapshot import Snapshot
from services.control_plane.audit import Audit
from services.control_plane.document_checks import Check, DocumentChecks
from services.control_plane.document_reader import read_layers
from services.control_plane.in_force import InForce
from services.control_plane.refusals import Refusals, cause_of
from services.control_plane.rollout_ports import ErrorRates, Proxies, Secrets
from services.control_plane.staging import LOOK_SECONDS, StagedTrial, Step
from services.control_plane.trials import PROBATION_SECONDS, Candidate, Trials

_SECRETS_SECONDS = 5.0

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a change. `waiting` are proxies that it concerns and that have not answered yet."""

    revision: Revision
    status: Status
    acked: int = 0
    waiting: tuple[str, ...] = ()


class Rollout:
    """Owns which document is in force. `start` before the first proxy is served, then `run` for ever."""

    def __init__(
        self,
        history: RevisionStore,
        store: StateStore,
        audit: Audit,
        *,
        error_rates: ErrorRates | None = None,
        leads: Callable[[], bool] = lambda: True,
        secrets: Secrets | None = None,
        known_services: Callable[[], Collection[str] | None] = lambda: None,
        probation: float = PROBATION_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.history = history
        self.trials = Trials()
        self._audit = audit
        self._error_rates = error_rates
        self._leads = leads
        self._checks = DocumentChecks(self.trials, secrets, known_services)
        self._clock = clock
        self._refusals = Refusals(self.trials, lambda: self._checks.connected, clock)
        self._one_change = asyncio.Lock()
        self._in_force = InForce(history, store, self._checks, self.trials, probation=probation, clock=clock)
        self._news = self._in_force.news

    # What AdsServer asks and tells.

    def policy_for(self, node_id: str) -> Policy | None:
        """See AdsServer."""
        return self.trials.policy_for(node_id)

    def note_answer(self, answer: Answer) -> None:
        """See AdsServer."""
        if answer.is_refusal:
            self._refusals.note(answer)
        self._news.tell()

    # Lifetime.

    async def start(self, proxies: Proxies, first_draft: Callable[[], Awaitable[Draft]]) -> None:
        """Take up the document that is in force; in a new history make the first revision of `first_draft`.

        Raises MeshError when it cannot be read: a control plane that knows no policy must not publish an empty one.
        """
        self._checks.proxies = proxies
        await self.history.settle()
        head = await self.history.head()
        if not head.newest:
            await self._make_first(await first_draft())
            head = await self.history.head()
        await self._in_force.start(head)
        _log.info("document_in_force", revision=head.active, newest=head.newest)

    async def _make_first(self, draft: Draft) -> None:
        draft = replace(draft, document_version=read_layers(draft.layers).version)
        try:
            made = await self.history.append(draft, newest=0)
        except FailedPrecondition as err:
            if err.reason != "STALE_REVISION":
                raise
            # Another control plane that has started at this moment was first.
            return
        await self._audit.note("apply", who=draft.author, revision=made.number, decision="active")

    async def run(self) -> None:
        """Judge, confirm, promote and follow what other control planes do, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._judge_for_ever())
            group.create_task(self._end_probations())
            group.create_task(self._hold_staged())
            group.create_task(self._follow_secrets())

    async def follow(self) -> None:
        """Adopt what other control planes make of the history, for ever."""
        backoff = Backoff(0.1, 2.0)
        while True:
            try:
                async for _ in self.history.watch():
                    async with self._one_change:
                        await self._in_force.adopt(await self.history.head())
                    backoff.reset()
            except MeshError as err:
                _log.error("history_not_followed", reason=err.reason, error=str(err))
                await asyncio.sleep(backoff.next())

    # Changes.

    async def check(self, layers: Sequence[Layer]) -> Check:
        """Tell what layers would change; raises InvalidInput for what is wrong. Nothing changes."""
        return await self._check(layers)

    async def _check(self, layers: Sequence[Layer], *, revision: int = 0, is_restored: bool = False) -> Check:
        check = await self._checks.check(layers, revision=revision, is_restored=is_restored)
        after = {node: both[1] for node, both in check.snapshots.items()}
        if faults := self._refusals.foreseen(after, check.reading):
            raise DocumentInvalid(faults)
        return check

    async def apply(self, draft: Draft, *, expected: int | None, wait: float, only: str = "") -> Outcome:
        """Check a change and publish it; wait up to `wait` seconds until the proxies have it or it is undone.

        With `only` it is a change of this layer; the others are those in force at the moment of the change, whatever
        the draft says: two that change different layers at a time do not undo each other.
        Raises InvalidInput when it is not valid and FailedPrecondition when `expected` is not the newest revision;
        nothing changes then. A change without any difference makes no revision.
        """
        action = "rollback" if draft.restores else "apply"
        try:
            revision, check, is_new = await self._commit(draft, expected, only)
        except MeshError as err:
            await self._audit.note(action, who=draft.author, revision=0, decision="refused", reason=str(err))
            raise
        if not is_new:
            return Outcome(revision, Status.ACTIVE, len(self._checks.connected.proxies()))
        is_staged = self.trials.staged is not None and self.trials.staged.number == revision.number
        decision = "staged" if is_staged else "active"
        await self._audit.note(
            action, who=draft.author, revision=revision.number, decision=decision, reason=draft.message
        )
        concerned = {node: both for node, both in check.snapshots.items() if not is_staged or node in self.trials.first}
        return await self._wait(revision, concerned, wait)

    async def _commit(self, draft: Draft, expected: int | None, only: str) -> tuple[Revision, Check, bool]:
        """Check and publish; the third value tells whether there is anything new."""
        async with self._one_change:
            head = await self.history.head()
            if expected is not None and expected != head.newest:
                raise stale(expected, head)
            if head.staged:
                raise stale(head.newest, head)
            current = self.trials.current
            if only:
                draft = replace(draft, layers=_with_layer(current.revision.draft.layers, draft.layers, only))
            check = await self._check(draft.layers, revision=head.newest + 1, is_restored=bool(draft.restores))
            if _texts(draft.layers) == _texts(current.revision.draft.layers):
                return current.revision, check, False
            rollout = check.reading.policy.document.mesh.rollout
            is_staged = rollout.strategy == "staged" and bool(check.snapshots)
            draft = replace(draft, document_version=check.reading.version)
            revision = await self.history.append(draft, newest=head.newest, staged=is_staged)
            await self._in_force.adopt(await self.history.head(), check)
            return revision, check, True

    async def unstage(self, number: int, *, author: str, reason: str) -> None:
        """Undo a staged revision at an author's will."""
        async with self._one_change:
            staged = self.trials.staged
            if staged is None or staged.number != number:
                raise FailedPrecondition(f"Revision {number} is not staged.", reason="NOT_STAGED")
            cause = f"Undone by {author}{': ' + reason if reason else ''}."
            await self._take_back(number, cause, (), who=author)

    async def _wait(
        self, revision: Revision, concerned: dict[str, tuple[Snapshot, Snapshot]], seconds: float
    ) -> Outcome:
        """Wait until the concerned proxies have the revision, it is undone, or the time is over."""
        number, acked, end = revision.number, 0, self._clock() + seconds
        waiting = {node: changed_resources(*both) for node, both in concerned.items()}
        while True:
            for node in list(waiting):
                match self._checks.connected.has_taken(node, waiting[node]):
                    case None:
                        # Gone; when it comes back it gets the document that is in force then.
                        del waiting[node]
                    case True:
                        del waiting[node]
                        acked += 1
            left = end - self._clock()
            if not waiting or not self.trials.holds(number) or left <= 0:
                break
            if not await self._news.wait(min(left, LOOK_SECONDS)):
                # Instances may have come and gone meanwhile, and with them versions of what is built.
                waiting = {node: self._in_force.changed_for(node, number) for node in waiting}
        if not self.trials.holds(number):
            # Out of force already; the history follows at once, or when it can be reached again.
            # Who undoes it has taken the lock.
            async with self._one_change:
                revision = await self.history.get(number)
        head = await self.history.head()
        return Outcome(revision, head.status_of(revision), acked, tuple(sorted(waiting)))

    # Secrets.

    async def _follow_secrets(self) -> None:
        while True:
            await asyncio.sleep(_SECRETS_SECONDS)
            await self.renew_secrets()

    async def renew_secrets(self) -> None:
        """Look up the secrets of what is in force again; new values go to the proxies."""
        async with self._one_change:
            await self._in_force.renew_secrets()

    # Refusals.

    async def _judge_for_ever(self) -> None:
        while True:
            verdict = await self._refusals.next_verdict()
            culprit = verdict.culprit
            self._in_force.take_out(culprit)
            # Nothing is waited for between this and the publication: who waits for the outcome comes later.
            async with self._one_change:
                refusals = [verdict.refusal, *await self._refusals.more_of(verdict)]
                await self._take_back(culprit.number, cause_of(refusals), refusals, who="control-plane")

    async def _take_back(self, number: int, cause: str, refusals: Sequence[Refusal], *, who: str) -> None:
        await self._in_force.undo(number, cause, refusals)
        await self._audit.note("undo", who=who, revision=number, decision="rolled-back", reason=cause)

    # Time.

    async def _end_probations(self) -> None:
        while True:
            end = self.trials.next_end()
            if await self._news.wait(None if end is None else max(0.0, end - self._clock())):
                continue
            number = self.trials.end_probations(self._clock())
            if number:
                async with self._one_change:
                    await self._in_force.confirm(number)

    async def _hold_staged(self) -> None:
        while True:
            staged = self.trials.staged
            if staged is None:
                await self._news.wait()
            elif self._leads():
                await self._see_through(staged)
            else:
                # Another control plane does, unless it dies.
                await self._news.wait(LOOK_SECONDS)

    async def _see_through(self, staged: Candidate) -> None:
        """Promote a staged revision after its first proxies did well for long enough, or undo it."""
        trial = StagedTrial(staged, self._clock)
        while self.trials.staged is staged and self._leads():
            if trial.since is None and self._first_have_taken(staged):
                trial.note_taken()
            percent = self._error_percent(trial.since)
            match trial.step(percent):
                case Step.PROMOTE:
                    await self._promote(staged)
                case Step.UNDO:
                    first = ", ".join(sorted(self.trials.first))
                    await self._undo_staged(
                        staged,
                        f"{percent:.3g} % of the requests failed at the first proxies ({first}); "
                        f"at most {trial.most_percent:g} % may.",
                    )
                case Step.WAIT:
                    await self._news.wait(trial.pause)

    async def _undo_staged(self, staged: Candidate, cause: str) -> None:
        async with self._one_change:
            if self.trials.staged is staged:
                await self._take_back(staged.number, cause, (), who="control-plane")

    def _first_have_taken(self, staged: Candidate) -> bool:
        return all(
            self._checks.connected.has_taken(node, self._in_force.changed_for(node, staged.number)) is not False
            for node in self.trials.first
        )

    def _error_percent(self, since: float | None) -> float | None:
        if since is None or self._error_rates is None:
            return None
        return self._error_rates.error_percent(self.trials.first, since)

    async def _promote(self, staged: Candidate) -> None:
        async with self._one_change:
            if self.trials.staged is not staged:
                return
            try:
                head = await self.history.promote(staged.number)
            except MeshError as err:
                _log.error("not_promoted", revision=staged.number, reason=err.reason, error=str(err))
                await asyncio.sleep(LOOK_SECONDS)
                return
            first = ", ".join(sorted(self.trials.first))
            await self._in_force.adopt(head)
        await self._audit.note(
            "promote", who="control-plane", revision=staged.number, decision="active", reason=f"{first} did well."
        )


def _with_layer(in_force: Sequence[Layer], wanted: Sequence[Layer], name: str) -> tuple[Layer, ...]:
    """The layers of a draft in their order, of which all but one are as they are in force."""
    known = {layer.name: layer for layer in in_force}
    return tuple(layer if layer.name == name else known.get(layer.name, layer) for layer in wanted)


def _texts(layers: Sequence[Layer]) -> list[tuple[str, str]]:
    return [(layer.name, layer.text) for layer in layers]
