"""Canaries as they are kept."""

import asyncio
import math
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from mesh.config.history import FileKeys
from mesh.errors import FailedPrecondition, NotFound
from services.control_plane.canary.book import CanaryBook
from services.control_plane.canary.plan import Plan
from services.control_plane.canary.record import (
    Canary,
    Figures,
    Phase,
    Step,
    ended,
    from_bytes,
    to_bytes,
    with_end,
    with_revision,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def canary(service="echo", **changes):
    return replace(Canary(Plan(service, "v1", "v2"), "tester", NOW, (Step(5, NOW),)), **changes)


@pytest.fixture
def book(tmp_path):
    return CanaryBook(FileKeys(tmp_path / "canaries"))


def test_a_record_is_read_as_it_was_written():
    known = canary(
        plan=Plan("echo", "v1", "v2", (10, 100), 2.5, 0.5, 7, 80.0, 1.5),
        steps=(Step(0, NOW, 3, Figures(), Figures(9, 1, 4.0)), Step(10, NOW, 4, Figures(5, 5, math.inf))),
        ending=Phase.ABORTED,
        cause="why",
        stable_p99=math.inf,
    )
    done = ended(canary(), Phase.PROMOTED, NOW, cause="done")
    assert from_bytes(to_bytes((known, done)), place="here") == (known, done)


@pytest.mark.parametrize("data", [b"", b"[]", b'{"form": 2, "canaries": []}', b'{"form": 1, "canaries": [{}]}'])
def test_what_is_no_record_is_named(data):
    with pytest.raises(FailedPrecondition, match="canaries does not tell of canaries"):
        from_bytes(data, place="canaries")


async def test_a_service_has_one_running_canary(book):
    await book.start(canary())
    await book.start(canary("other"))
    with pytest.raises(FailedPrecondition, match="runs already") as caught:
        await book.start(canary())
    assert caught.value.reason == "CANARY_RUNS"
    await book.change("echo", lambda it: ended(it, Phase.ABORTED, NOW))
    await book.start(canary())
    assert [it.phase for it in await book.read() if it.plan.service == "echo"] == [Phase.RUNNING, Phase.ABORTED]


async def test_two_starts_at_once_make_one_canary(book):
    results = await asyncio.gather(*(book.start(canary()) for _ in range(5)), return_exceptions=True)
    assert sum(result is None for result in results) == 1
    assert len(await book.read()) == 1


async def test_what_does_not_run_cannot_be_changed(book):
    with pytest.raises(FailedPrecondition, match="No canary of echo runs"):
        await book.change("echo", lambda it: it)
    with pytest.raises(NotFound):
        await book.newest("echo")


async def test_old_canaries_are_forgotten_and_running_ones_are_not(book):
    await book.start(canary("old"))
    for number in range(55):
        await book.start(canary(start_time=NOW.replace(minute=number)))
        await book.change("echo", lambda it: ended(it, Phase.PROMOTED, NOW))
    found = await book.read()
    assert len(found) == 51
    assert found[-1].plan.service == "old"
    assert found[0].start_time.minute == 54


async def test_a_change_is_heard_of(book):
    heard = []

    async def listen():
        async for _ in book.watch():
            heard.append(len(await book.read()))
            if heard[-1]:
                return

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(listen())
        await asyncio.sleep(0)
        await book.start(canary())
    assert heard[-1] == 1


def test_the_first_order_to_end_counts():
    first = with_end(canary(), Phase.ABORTED, "first", NOW)
    assert with_end(first, Phase.PROMOTED, "second", NOW) == first
    assert (first.step.percent, first.wanted_split) == (0, {"echo/v1": 100, "echo/v2": 0})


def test_a_promotion_in_the_last_step_needs_no_further_step():
    last = with_revision(canary(steps=(Step(100, NOW),)), 7)
    assert with_end(last, Phase.PROMOTED, "done", NOW).steps == last.steps
