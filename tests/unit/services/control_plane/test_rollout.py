"""Which revision is in force, without Envoys: vetoes, probations, restarts, and a history that is away."""

import asyncio
import contextlib
import json
from datetime import UTC, datetime, timedelta

import pytest

from mesh.config.history import Draft, FileKeys, Layer, RevisionStore, Status
from mesh.errors import DocumentInvalid, FailedPrecondition, Unavailable
from mesh.model import SpiffeId
from mesh.runtime import open_background
from mesh.state import MeshState, StateStore
from mesh.xds import Answer, ProxyStatus, names
from mesh.xds.resources import Resource
from mesh.xds.snapshot import Snapshot
from services.control_plane.audit import Audit
from services.control_plane.rollout import Rollout

FILES = (Layer("defaults", "defaults.yaml", ""),)
BOUND = 5


def status_of(node_id):
    identity = SpiffeId("mesh.test", "default", node_id.partition("/")[0])
    return ProxyStatus(node_id, identity, identity.service, "delta", None, "", ())


class Fleet:
    """Proxies, each of which has one route per service in the document, versioned by its timeout."""

    def __init__(self, *nodes):
        self.nodes = set(nodes)
        self.slow = set()
        self.refused = []
        self.refreshed = 0

    def proxies(self):
        return tuple(status_of(node) for node in sorted(self.nodes))

    def preview(self, node_id, policy):
        if node_id not in self.nodes:
            return None
        services = policy.document.services.items()
        routes = {name: Resource(names.ROUTE, name, str(it.timeout), b"") for name, it in services}
        return Snapshot({names.ROUTE: routes})

    def has_taken(self, node_id, changed):
        return node_id not in self.slow if node_id in self.nodes else None

    def refusals(self):
        return tuple(self.refused)

    def refresh(self):
        self.refreshed += 1


def refusal(node_id, **refused):
    identity = SpiffeId("mesh.test", "default", node_id.partition("/")[0])
    return Answer(node_id, identity, names.ROUTE, True, refused, "no")


class BrittleKeys(FileKeys):
    """Keys that may be away."""

    is_away = False

    async def put(self, key, value, *, expected=None):
        if self.is_away:
            raise Unavailable("It is away.")
        return await super().put(key, value, expected=expected)


class Plane:
    """One control plane on a history that others may share."""

    def __init__(self, directory, *nodes, name="a", most=1000):
        self.fleet = Fleet(*nodes)
        self.keys = BrittleKeys(directory / "config")
        self.store = StateStore(MeshState("mesh.test"))
        self.audit = directory / f"audit-{name}.jsonl"
        self.now = 0.0
        self.today = datetime(2026, 1, 1, tzinfo=UTC)
        history = RevisionStore(self.keys, most=most, clock=lambda: self.today)
        self.rollout = Rollout(history, self.store, Audit(self.audit), probation=30.0, clock=lambda: self.now)

    @contextlib.asynccontextmanager
    async def running(self):
        async def first():
            return draft(echo=1)

        await self.rollout.start(self.fleet, first)
        async with open_background(self.rollout.run()), open_background(self.rollout.follow()):
            yield self

    async def apply(self, *, head="", **timeouts):
        return await self.rollout.apply(draft(head=head, **timeouts), expected=None, wait=0)

    async def refuse(self, node_id, **seconds):
        self.rollout.note_answer(refusal(node_id, **{name: f"0:00:{number:02d}" for name, number in seconds.items()}))

    def timeout(self, service="echo"):
        return self.store.current.policy.of(service).timeout.total_seconds()

    def decisions(self):
        return [json.loads(line)["decision"] for line in self.audit.read_text().splitlines()]


def draft(*, head="", **timeouts):
    text = head + "services:\n" + "".join(f"  {name}:\n    timeout: {it}s\n" for name, it in timeouts.items())
    return Draft("operator", "", (*FILES, Layer("operator", "mine.yaml", text)), "")


async def until(question):
    async with asyncio.timeout(BOUND):
        while not question():
            await asyncio.sleep(0.005)


@pytest.fixture
async def plane(tmp_path):
    async with Plane(tmp_path, "a/1", "a/2", "b/1").running() as found:
        yield found


async def test_a_refusal_of_what_the_change_brought_undoes_it(plane):
    await plane.apply(echo=2)
    await plane.refuse("a/1", echo=2)
    await until(lambda: plane.timeout() == 1)
    await until(lambda: plane.decisions()[-1] == "rolled-back")
    head = await plane.rollout.history.head()
    assert (head.newest, head.active) == (2, 1)


async def test_a_refusal_of_what_the_proxy_had_before_undoes_nothing(plane):
    await plane.apply(echo=1, other=2)
    await plane.refuse("a/1", echo=1)
    await plane.refuse("b/1", other=2)
    await until(lambda: "other" not in plane.store.current.policy.document.services)
    # Had the first one counted, its proxy would stand there.
    found = await plane.rollout.history.get(2)
    await until(lambda: plane.decisions()[-1] == "rolled-back")
    found = await plane.rollout.history.get(2)
    assert [refused.node_id for refused in found.refusals] == ["b/1"]


async def test_after_its_probation_a_revision_is_not_undone(plane):
    await plane.apply(echo=2)
    plane.now = 31
    plane.rollout.note_answer(Answer("a/1", status_of("a/1").spiffe_id, names.ROUTE))
    await until(lambda: len(plane.rollout.trials.candidates) == 1)
    async with asyncio.timeout(BOUND):
        while (await plane.rollout.history.head()).good != 2:
            await asyncio.sleep(0.005)
    await plane.refuse("a/1", echo=2)
    await plane.apply(echo=3)
    await plane.refuse("a/1", echo=3)
    await until(lambda: plane.timeout() == 2)


async def test_the_older_of_two_on_probation_takes_the_younger_with_it(plane):
    await plane.apply(echo=2)
    await plane.apply(echo=2, other=5)
    await plane.refuse("a/1", echo=2)
    await until(lambda: plane.timeout() == 1)
    await until(lambda: plane.decisions()[-1] == "rolled-back")
    assert "revision 2" in (await plane.rollout.history.get(3)).cause
    assert (await plane.rollout.history.head()).active == 1


async def test_the_younger_of_two_on_probation_leaves_the_older_in_force(plane):
    await plane.apply(echo=2)
    await plane.apply(echo=3)
    await plane.refuse("a/1", echo=3)
    await until(lambda: plane.timeout() == 2)


async def test_a_service_that_refuses_for_ever_runs_out_of_vetoes(plane):
    for number in range(2, 5):
        await plane.apply(echo=number)
        await plane.refuse("a/1", echo=number)
        await until(lambda: plane.timeout() == 1)
        await until(lambda: plane.decisions()[-1] == "rolled-back")
    await plane.apply(echo=5)
    # Another instance of the same service has none left either; another service has its own.
    await plane.refuse("a/2", echo=5)
    await plane.apply(echo=5, other=1)
    assert plane.timeout() == 5
    await plane.refuse("b/1", echo=5)
    await until(lambda: plane.timeout() == 1)


async def test_what_a_proxy_has_refused_before_is_refused_without_asking_it_again(plane):
    plane.fleet.refused = [refusal("b/1", echo="0:00:02")]
    with pytest.raises(DocumentInvalid, match="b/1 has refused this route") as caught:
        await plane.apply(echo=2)
    (fault,) = caught.value.faults
    assert (fault.source, fault.line) == ("mine.yaml", 3)
    assert plane.decisions()[-1] == "refused"


async def test_a_history_that_is_away_delays_no_rollback(plane):
    await plane.apply(echo=2)
    plane.keys.is_away = True
    await plane.refuse("a/1", echo=2)
    await until(lambda: plane.timeout() == 1)
    assert (await plane.rollout.history.head()).active == 2
    plane.keys.is_away = False
    await until(lambda: plane.decisions()[-1] == "rolled-back")
    assert (await plane.rollout.history.head()).active == 1


async def test_nothing_is_in_force_that_is_not_in_the_history(plane):
    plane.keys.is_away = True
    with pytest.raises(Unavailable):
        await plane.apply(echo=2)
    assert plane.timeout() == 1


async def test_a_proxy_that_has_not_answered_is_named(plane):
    plane.fleet.slow = {"a/2"}
    outcome = await plane.apply(echo=2)
    assert (outcome.status, outcome.acked, outcome.waiting) == (Status.ACTIVE, 2, ("a/2",))


async def test_a_proxy_that_has_gone_is_not_waited_for(plane):
    plane.fleet.slow = {"a/2"}
    applying = asyncio.create_task(plane.rollout.apply(draft(echo=2), expected=None, wait=BOUND))
    await until(lambda: plane.timeout() == 2)
    plane.fleet.nodes.discard("a/2")
    plane.rollout.note_answer(Answer("a/1", status_of("a/1").spiffe_id, names.ROUTE))
    outcome = await asyncio.wait_for(applying, BOUND)
    assert outcome.waiting == ()


async def test_the_same_document_again_makes_no_revision(plane):
    first = await plane.apply(echo=2)
    again = await plane.apply(echo=2)
    assert again.revision.number == first.revision.number == 2


async def test_after_a_restart_the_probation_goes_on(tmp_path):
    async with Plane(tmp_path, "a/1").running() as plane:
        await plane.apply(echo=2)
    async with Plane(tmp_path, "a/1").running() as plane:
        assert plane.timeout() == 2
        await plane.refuse("a/1", echo=2)
        await until(lambda: plane.timeout() == 1)


async def apply_every(plane, seconds, timeouts):
    """Changes so many seconds apart, while no probation ends: the control plane is restarted again and again."""
    for timeout in timeouts:
        plane.today += timedelta(seconds=seconds)
        await plane.apply(echo=timeout)


def chain(plane):
    return [found.number for found in plane.rollout.trials.candidates]


async def test_a_restart_reads_no_more_than_the_changes_of_one_probation(tmp_path):
    async with Plane(tmp_path, "a/1").running() as plane:
        await apply_every(plane, 10, range(2, 21))
        assert (await plane.rollout.history.head()).good == 1
    async with Plane(tmp_path, "a/1").running() as plane:
        assert chain(plane) == [17, 18, 19, 20]
        await plane.apply(echo=21)
        assert chain(plane) == [17, 18, 19, 20, 21]
        await plane.refuse("a/1", echo=20)
        await until(lambda: plane.timeout() == 19)


async def test_a_restart_long_after_the_last_change_still_can_undo_it(tmp_path):
    async with Plane(tmp_path, "a/1").running() as plane:
        await apply_every(plane, 100, [2, 3])
    async with Plane(tmp_path, "a/1").running() as plane:
        plane.today += timedelta(days=1)
        assert chain(plane) == [2, 3]
        await plane.refuse("a/1", echo=3)
        await until(lambda: plane.timeout() == 2)


async def test_a_restart_does_not_fall_back_to_what_was_undone(tmp_path):
    async with Plane(tmp_path, "a/1").running() as plane:
        await apply_every(plane, 100, [2, 3])
        await plane.refuse("a/1", echo=3)
        await until(lambda: plane.timeout() == 2)
        await until(lambda: plane.decisions()[-1] == "rolled-back")
        await apply_every(plane, 100, [4])
    async with Plane(tmp_path, "a/1").running() as plane:
        assert chain(plane) == [2, 4]


async def test_a_restart_needs_no_revision_that_the_history_has_forgotten(tmp_path):
    async with Plane(tmp_path, "a/1", most=5).running() as plane:
        await apply_every(plane, 1, range(2, 10))
        assert (await plane.rollout.history.head()).good == 1
    async with Plane(tmp_path, "a/1", most=5).running() as plane:
        assert plane.timeout() == 9
        assert chain(plane) == [5, 6, 7, 8, 9]


async def test_a_refusal_at_one_control_plane_undoes_the_change_at_all(tmp_path):
    async with (
        Plane(tmp_path, "a/1").running() as one,
        Plane(tmp_path, "b/1", name="b").running() as two,
    ):
        await one.apply(echo=2)
        await until(lambda: two.timeout() == 2)
        await two.refuse("b/1", echo=2)
        await until(lambda: one.timeout() == two.timeout() == 1)


STAGED = "mesh:\n  rollout: {strategy: staged, first_percent: 1, hold: 10s}\n"


async def test_a_staged_change_goes_to_the_first_and_after_its_hold_to_all(plane):
    outcome = await plane.apply(head=STAGED, echo=2)
    assert outcome.status is Status.STAGED
    (first,) = plane.rollout.trials.first
    assert plane.rollout.policy_for(first).of("echo").timeout.total_seconds() == 2
    assert plane.timeout() == 1
    assert {plane.rollout.policy_for(node) for node in plane.fleet.nodes - {first}} == {None}
    plane.rollout.note_answer(Answer(first, status_of(first).spiffe_id, names.ROUTE))
    await asyncio.sleep(0)
    plane.now = 11
    await until(lambda: plane.timeout() == 2)
    assert plane.rollout.trials.first == frozenset()


async def test_a_staged_change_waits_for_a_first_proxy_that_does_not_answer(plane):
    plane.fleet.slow = set(plane.fleet.nodes)
    await plane.apply(head=STAGED, echo=2)
    plane.now = 1000
    plane.rollout.note_answer(Answer("a/1", status_of("a/1").spiffe_id, names.ROUTE))
    with pytest.raises(FailedPrecondition, match="staged"):
        await plane.apply(echo=3)
    assert plane.timeout() == 1


async def test_after_a_restart_a_staged_change_is_with_the_same_proxies(tmp_path):
    nodes = [f"a/{number}" for number in range(10)]
    async with Plane(tmp_path, *nodes).running() as plane:
        await plane.apply(head=STAGED, echo=2)
        first = plane.rollout.trials.first
    async with Plane(tmp_path, *nodes).running() as plane:
        assert plane.rollout.trials.first == first
        assert plane.timeout() == 1


async def test_changes_of_different_layers_at_a_time_do_not_undo_each_other(plane):
    mine = draft(echo=2)
    before = plane.rollout.trials.current.revision.draft.layers
    file = Layer("defaults", "defaults.yaml", "defaults:\n  timeout: 9s\n")
    theirs = Draft("defaults.yaml", "", (file, before[1]), "", applied=False)
    await asyncio.gather(
        plane.rollout.apply(mine, expected=None, wait=0, only="operator"),
        plane.rollout.apply(theirs, expected=None, wait=0, only="defaults"),
    )
    assert plane.timeout() == 2
    assert plane.timeout("other") == 9
