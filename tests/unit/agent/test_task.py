"""A task's history."""

import asyncio
from datetime import UTC, datetime

import pytest

from mesh.agent.part import Part
from mesh.agent.task import Task, TaskOrigin, TaskState
from mesh.errors import InvalidInput, NotFound, ResourceExhausted

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def make(**more):
    return Task("t", 1, TaskOrigin("skill"), now=lambda: NOW, **{"report_interval": 0.0} | more)


async def collect(task, after=0):
    return [update async for update in task.watch(after)]


async def test_updates_are_numbered_from_one_without_gaps():
    task = make()
    task.start()
    task.report(0.5, "half")
    task.add_output(Part.of("a"))
    task.complete((Part.of("b"),))
    updates = await collect(task)
    assert [update.sequence for update in updates] == [1, 2, 3, 4, 5]
    assert [update.state.name for update in updates] == ["SUBMITTED", "WORKING", "WORKING", "WORKING", "COMPLETED"]
    assert [part.value for part in task.output] == ["a", "b"]
    assert (updates[-1].progress, updates[-1].message) == (1.0, "half")


async def test_each_watcher_gets_all_at_its_own_pace():
    task = make()
    task.start()
    slow = task.watch()
    assert (await anext(slow)).sequence == 1
    quick = asyncio.create_task(collect(task, after=1))
    for number in range(50):
        task.report(number / 50)
    task.cancel("enough")
    assert [update.sequence for update in await quick] == list(range(2, 54))
    assert [update.sequence async for update in slow] == list(range(2, 54))


async def test_nothing_comes_after_the_end():
    task = make()
    task.fail(NotFound("gone"))
    task.report(0.5)
    task.add_output(Part.of("late"))
    task.cancel("late")
    task.complete(())
    assert task.newest.state is TaskState.FAILED
    assert task.newest.sequence == 2
    await task.wait_ended()


async def test_reports_in_quick_succession_are_merged_and_the_last_one_is_kept():
    task = make(report_interval=0.01)
    task.start()
    for number in range(1000):
        task.report(number / 1000, f"step {number}")
    watcher = task.watch(task.newest.sequence)
    async with asyncio.timeout(5):
        assert (await anext(watcher)).message == "step 999"
    assert len(task.updates) == 4
    task.complete(())


async def test_a_report_that_waits_when_the_task_ends_is_in_its_last_update():
    task = make(report_interval=10.0)
    task.start()
    task.report(0.1, "first")
    task.report(0.2, "second")
    task.cancel("enough")
    assert (task.newest.progress, task.newest.message) == (0.2, "enough")


@pytest.mark.parametrize(("given", "kept"), [(-1, 0.0), (0.25, 0.25), (7, 1.0)])
async def test_progress_stays_between_zero_and_one(given, kept):
    task = make()
    task.start()
    task.report(given)
    assert task.newest.progress == kept


@pytest.mark.parametrize("given", [float("nan"), float("inf")])
async def test_what_is_no_number_is_no_progress(given):
    with pytest.raises(InvalidInput):
        make().report(given)


async def test_output_is_bounded_also_in_many_small_pieces():
    task = make(max_output_bytes=2000)
    task.start()
    with pytest.raises(ResourceExhausted):
        for _ in range(100):
            task.add_output(Part.of("x"))
    assert len(task.output) < 10
    with pytest.raises(ResourceExhausted):
        task.complete((Part.of("x" * 2000),))
    assert not task.newest.state.is_end


async def test_an_error_that_is_kept_holds_no_frames():
    task = make()
    try:
        try:
            raise ValueError
        except ValueError as err:
            raise NotFound("gone") from err
    except NotFound as err:
        task.fail(err)
    error = task.newest.error
    assert error is not None
    assert (error.__traceback__, error.__cause__, error.__context__) == (None, None, None)
