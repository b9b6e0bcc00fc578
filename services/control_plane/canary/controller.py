"""Takes canaries from step to step, on the control plane that leads.

Each look at a canary does one thing: bring the wanted split into force, judge the step that is in force, or end. All
that must survive is in the book before it is done; what is only measured begins anew after a restart.
"""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from mesh.errors import FailedPrecondition, InvalidInput, MeshError
from mesh.runtime import Backoff
from mesh.state import StateStore
from mesh.telemetry import get_logger
from mesh.xds import LoadReports
from mesh.xds.blueprint import select
from services.control_plane.canary.book import CanaryBook
from services.control_plane.canary.judge import Judgement, Verdict, judge, judge_baseline, p99_of_stable
from services.control_plane.canary.ports import Document, Fate
from services.control_plane.canary.record import (
    Canary,
    Figures,
    Phase,
    ended,
    with_end,
    with_figures,
    with_revision,
    with_step,
)

_LOOK_SECONDS = 0.25
_NEXT = "its revision to be in force"
_FIRST_RETRY = 0.5
_LONGEST_RETRY = 5.0

_log = get_logger(__name__)


def utc_now() -> datetime:
    """The time of day, with its zone."""
    return datetime.now(UTC)


@dataclass(slots=True)
class Watched:
    """What this process knows of a running canary beside its record. `since` is when its step came into force."""

    interest: ExitStack
    step: int = 0
    since: float | None = None
    candidate: Figures = field(default_factory=Figures)
    stable: Figures = field(default_factory=Figures)
    stable_p99: float | None = None
    waiting_for: str = _NEXT
    retry_at: float = 0.0
    backoff: Backoff = field(default_factory=lambda: Backoff(_FIRST_RETRY, _LONGEST_RETRY))


class CanaryController:
    """Runs all canaries of `book` while `is_leader`. Belongs to one event loop; `run` goes into a task."""

    def __init__(
        self,
        book: CanaryBook,
        document: Document,
        store: StateStore,
        reports: LoadReports,
        *,
        is_leader: Callable[[], bool],
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._book = book
        self._document = document
        self._store = store
        self._reports = reports
        self._is_leader = is_leader
        self._now = now
        self._watched: dict[str, Watched] = {}
        self._wake = asyncio.Event()

    def watched(self, service: str) -> Watched | None:
        """The newest figures of a running canary, None where another control plane runs it."""
        return self._watched.get(service)

    async def run(self) -> None:
        """Look at all running canaries again and again, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_book())
            try:
                while True:
                    self._wake.clear()
                    is_any_running = await self.look()
                    try:
                        async with asyncio.timeout(_LOOK_SECONDS if is_any_running else None):
                            await self._wake.wait()
                    except TimeoutError:
                        continue
            finally:
                self._release(frozenset())

    async def _follow_book(self) -> None:
        backoff = Backoff(_FIRST_RETRY, _LONGEST_RETRY)
        while True:
            try:
                async for _ in self._book.watch():
                    self._wake.set()
                    backoff.reset()
            except MeshError as err:
                _log.warning("canaries_not_followed", reason=err.reason, error=str(err))
            await asyncio.sleep(backoff.next())

    async def look(self) -> bool:
        """Look at every running canary once; tells whether there is one."""
        try:
            running = [canary for canary in await self._book.read() if canary.is_running]
        except MeshError as err:
            _log.error("canaries_not_read", reason=err.reason, error=str(err))
            return True
        leads = self._is_leader()
        self._release(frozenset(canary.plan.service for canary in running) if leads else frozenset())
        for canary in running if leads else ():
            watched = self._watch(canary)
            try:
                await self._advance(canary, watched)
            except MeshError as err:
                watched.waiting_for = str(err)
                watched.retry_at = self._reports.now() + watched.backoff.next()
                _log.warning("canary_hindered", service_name=canary.plan.service, reason=err.reason, error=str(err))
        return bool(running)

    def _watch(self, canary: Canary) -> Watched:
        service = canary.plan.service
        watched = self._watched.get(service)
        if watched is None:
            interest = ExitStack()
            clusters = (canary.plan.stable_cluster, canary.plan.candidate_cluster)
            interest.enter_context(self._reports.judge(clusters=clusters))
            watched = self._watched[service] = Watched(interest)
        return watched

    def _release(self, kept: frozenset[str]) -> None:
        for service in self._watched.keys() - kept:
            self._watched.pop(service).interest.close()

    async def _advance(self, canary: Canary, watched: Watched) -> None:
        if self._is_in_force(canary):
            if canary.ending is not None:
                await self._finish(canary, canary.ending)
            else:
                await self._judge(canary, watched)
        elif self._reports.now() < watched.retry_at:
            return
        elif canary.step.revision:
            await self._learn_fate(canary)
        else:
            await self._apply(canary, watched)

    def _is_in_force(self, canary: Canary) -> bool:
        split = self._store.current.policy.of(canary.plan.service).split
        wanted = canary.wanted_split
        return {t: w for t, w in split.items() if w} == {t: w for t, w in wanted.items() if w}

    async def _apply(self, canary: Canary, watched: Watched) -> None:
        plan = canary.plan
        watched.waiting_for = _NEXT
        message = f"{canary.step.percent} % of {plan.service} to {plan.candidate}"
        if canary.ending is Phase.ABORTED:
            message = f"back to {plan.stable}: {canary.cause}"
        try:
            revision = await self._document.set_split(
                plan.service, canary.wanted_split, author=f"canary {plan.service}", message=message[:1000]
            )
        except (InvalidInput, FailedPrecondition) as err:
            if err.retryable or err.reason in ("STALE_REVISION", "REVISION_STAGED"):
                raise
            if canary.ending is not None and err.reason == "CHANGE_UNDONE":
                raise
            await self._give_up(canary, str(err))
            return
        watched.backoff.reset()
        await self._change(canary, lambda known: with_revision(known, revision))

    async def _give_up(self, canary: Canary, why: str) -> None:
        """The split cannot be set. On the way out there is nothing left to try: whoever changed the document knows."""
        if canary.ending is None:
            await self._order_end(canary, Phase.ABORTED, why)
        else:
            reason = "" if why == canary.cause else f" {why}"
            await self._finish(canary, Phase.ABORTED, cause=f"{canary.cause}{reason} The split is left as it is.")

    async def _learn_fate(self, canary: Canary) -> None:
        """The split was set, and it is not in force."""
        news = await self._document.news_of(canary.step.revision)
        if news.fate is Fate.UNDONE and canary.ending is None:
            await self._order_end(canary, Phase.ABORTED, news.text)
        elif news.fate is Fate.UNDONE:
            await self._change(canary, lambda known: with_revision(known, 0))
        elif news.fate in (Fate.REPLACED, Fate.IN_FORCE) and not self._is_in_force(canary):
            cause = f"{news.text or 'Somebody'} changed the split of {canary.plan.service}, which is left as it is."
            await self._finish(canary, Phase.ABORTED, cause=cause)

    async def _judge(self, canary: Canary, watched: Watched) -> None:
        now = self._reports.now()
        if watched.since is None or watched.step != len(canary.steps):
            watched.since, watched.step = now, len(canary.steps)
        if not canary.step.revision:
            # In force before it was to be brought about, or a process died before it could note the revision.
            revision = self._store.current.policy.revision
            await self._change(canary, lambda known: with_revision(known, revision))
            return
        plan = canary.plan
        candidate = self._reports.load_of(plan.candidate_cluster, watched.since)
        stable = self._reports.load_of(plan.stable_cluster, watched.since)
        watched.candidate, watched.stable = Figures.of(candidate), Figures.of(stable)
        watched.stable_p99 = p99_of_stable(plan, stable) or watched.stable_p99 or canary.stable_p99
        if not self._has_instances(canary):
            judgement = Judgement(Verdict.ABORT, f"no instance of {plan.candidate} is healthy")
        elif canary.step.percent == 0:
            judgement = judge_baseline(plan, stable)
        else:
            elapsed = now - watched.since
            judgement = judge(plan, elapsed=elapsed, candidate=candidate, stable=stable, stable_p99=watched.stable_p99)
        watched.waiting_for = judgement.reason if judgement.verdict is Verdict.WAIT else _NEXT
        if judgement.verdict is Verdict.ABORT:
            await self._order_end(canary, Phase.ABORTED, judgement.reason)
        elif judgement.verdict is Verdict.PASS:
            await self._pass(canary, watched)

    async def _pass(self, canary: Canary, watched: Watched) -> None:
        following = [percent for percent in canary.plan.steps if percent > canary.step.percent]
        _log.info("canary_step_passed", service_name=canary.plan.service, percent=canary.step.percent)
        if not following:
            await self._order_end(canary, Phase.PROMOTED, "Every step did well.")
            return
        await self._change(
            canary,
            lambda known: replace(
                with_step(with_figures(known, watched.candidate, watched.stable), following[0], self._now()),
                stable_p99=watched.stable_p99,
            ),
        )

    def _has_instances(self, canary: Canary) -> bool:
        """Whether the candidate, if it gets requests, has a healthy instance: load reports do not tell.

        A registry that has not answered yet is no reason to end.
        """
        state, plan = self._store.current, canary.plan
        instances = state.services.get(plan.service, ())
        if not instances or canary.step.percent == 0:
            return True
        found = select(state.policy.of(plan.service), f"{plan.service}/{plan.candidate}", instances)
        return any(instance.is_healthy for instance in found)

    async def _order_end(self, canary: Canary, ending: Phase, cause: str) -> None:
        watched = self._watch(canary)

        def order(known: Canary) -> Canary:
            if watched.step == len(known.steps):
                known = with_figures(known, watched.candidate, watched.stable)
            return with_end(known, ending, cause, self._now())

        await self._change(canary, order)
        _log.info("canary_ending", service_name=canary.plan.service, ending=ending.value, cause=cause)

    async def _finish(self, canary: Canary, phase: Phase, *, cause: str = "") -> None:
        await self._change(canary, lambda known: ended(known, phase, self._now(), cause=cause))
        _log.info("canary_ended", service_name=canary.plan.service, phase=phase.value, cause=cause or canary.cause)

    async def _change(self, canary: Canary, change: Callable[[Canary], Canary]) -> None:
        """Change the record if it still is the one that was looked at; an operator may have been faster."""
        await self._book.change(canary.plan.service, lambda known: change(known) if known == canary else known)
        self._wake.set()
