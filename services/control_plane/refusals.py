"""Refusals of proxies: which of them are the fault of a revision on probation, and what in the document caused them."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from mesh.config.history import Origin, Refusal
from mesh.errors import Fault, MeshError
from mesh.telemetry import get_logger
from mesh.xds import Answer, names
from mesh.xds.rollout import Vetoes, find_cause, find_culprit
from mesh.xds.snapshot import Snapshot
from services.control_plane.document_reader import Reading, as_causes, changed_fields
from services.control_plane.rollout_ports import Proxies
from services.control_plane.trials import Candidate, Trials

MOST_WAITING = 1000
_MORE_SECONDS = 0.1

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A revision is at fault. `chain` is what the resources of the refusing proxy came from, oldest first."""

    culprit: Candidate
    chain: tuple[Candidate, ...]
    refusal: Refusal


class Refusals:
    """Judges refusals one after the other. Belongs to one event loop."""

    def __init__(self, trials: Trials, connected: Callable[[], Proxies], clock: Callable[[], float]) -> None:
        self._trials = trials
        self._connected = connected
        self._vetoes = Vetoes(clock=clock)
        self._waiting: asyncio.Queue[Answer] = asyncio.Queue(MOST_WAITING)

    def note(self, answer: Answer) -> None:
        """Take a refusal. Of too many at a time the later ones are dropped: one is enough."""
        try:
            self._waiting.put_nowait(answer)
        except asyncio.QueueFull:
            _log.warning("refusal_dropped", node=answer.node_id)

    def foreseen(self, snapshots: Mapping[str, Snapshot], reading: Reading) -> list[Fault]:
        """What proxies have refused before and would be given by a change: they would not even be asked again.

        `snapshots` are those of the proxies that the change concerns. A service without a veto left is not heard.
        """
        found = []
        for answer in self._connected().refusals():
            snapshot = snapshots.get(answer.node_id)
            if snapshot is None or not self._vetoes.has(str(answer.spiffe_id)):
                continue
            wanted = snapshot.of(answer.type_url)
            bad = sorted(
                name for name, version in answer.refused.items() if name in wanted and wanted[name].version == version
            )
            if bad:
                found.append(self._fault_of(answer, bad, reading))
        return found

    def _fault_of(self, answer: Answer, bad: Sequence[str], reading: Reading) -> Fault:
        changes = as_causes(changed_fields(self._trials.current.reading, reading))
        cause = find_cause(changes, bad, answer.message)
        place = reading.origin(cause.path) if cause is not None else Origin("document", 0, "")
        kind = names.SHORT_NAMES.get(answer.type_url, answer.type_url)
        reason = f"{answer.node_id} has refused this {kind} ({', '.join(bad)}) before: {answer.message}"
        return Fault(place.source, place.line, place.field, reason)

    async def next_verdict(self) -> Verdict:
        """Wait for a refusal that is the fault of a revision and that its proxy has a veto for."""
        while True:
            answer = await self._waiting.get()
            chain = tuple(self._trials.chain_for(answer.node_id))
            culprit = self._culprit_of(answer, chain)
            if culprit is None:
                continue
            if self._vetoes.use(str(answer.spiffe_id)):
                return Verdict(culprit, chain, _refusal_of(answer, culprit, chain))
            _log.error("veto_exhausted", node=answer.node_id, peer=str(answer.spiffe_id), revision=culprit.number)

    async def more_of(self, verdict: Verdict) -> list[Refusal]:
        """What other proxies say of the same revision in the next moment; it is out of force already."""
        found = []
        try:
            async with asyncio.timeout(_MORE_SECONDS):
                while True:
                    answer = await self._waiting.get()
                    if self._culprit_of(answer, verdict.chain) is verdict.culprit:
                        found.append(_refusal_of(answer, verdict.culprit, verdict.chain))
        except TimeoutError:
            return found

    def _culprit_of(self, answer: Answer, chain: Sequence[Candidate]) -> Candidate | None:
        if len(chain) < 2 or not answer.refused:
            return None
        try:
            snapshots = [self._connected().preview(answer.node_id, found.policy) for found in chain]
        except MeshError as err:
            _log.error("refusal_not_judged", node=answer.node_id, reason=err.reason, error=str(err))
            return None
        built = [snapshot for snapshot in snapshots if snapshot is not None]
        if len(built) < len(chain):
            return None
        position = find_culprit(built, answer.type_url, answer.refused)
        return chain[position] if position is not None else None


def _refusal_of(answer: Answer, culprit: Candidate, chain: Sequence[Candidate]) -> Refusal:
    before = chain[chain.index(culprit) - 1]
    changes = as_causes(changed_fields(before.reading, culprit.reading))
    resources = tuple(sorted(answer.refused))
    cause = find_cause(changes, resources, answer.message)
    origin = None
    if cause is not None:
        # What was taken away stands nowhere any more, but it stood somewhere.
        reading = culprit.reading if cause.value else before.reading
        origin = replace(reading.origin(cause.path), reason=answer.message)
    kind = names.SHORT_NAMES.get(answer.type_url, answer.type_url)
    return Refusal(answer.node_id, kind, resources, answer.message, origin)


def cause_of(refusals: Sequence[Refusal]) -> str:
    """For a person: who refuses what, in Envoy's words, and the line that caused it."""
    first = refusals[0]
    others = len({refusal.node_id for refusal in refusals}) - 1
    more = f" (and {others} more)" if others else ""
    cause = f"{first.node_id}{more} refuses the {first.type} {', '.join(first.resources)}: {first.message.rstrip('.')}."
    if first.origin is not None:
        place = f"{first.origin.source}, line {first.origin.line}" if first.origin.line else first.origin.source
        cause += f" Caused by {place}: {first.origin.field}."
    return cause
