"""What followers hear of the changes of all tasks."""

from datetime import UTC, datetime

import pytest

from mesh.agent.part import Part
from mesh.agent.task import Task, TaskOrigin
from mesh.agent.task_feed import TaskFeed
from mesh.errors import ResourceExhausted

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def make(feed, name="t"):
    return Task(name, 1, TaskOrigin("skill"), now=lambda: NOW, report_interval=0.0, on_change=feed.tell)


async def read(follower):
    return [(change.id, change.newest.sequence) async for change in follower.changes()]


async def test_followers_hear_of_all_tasks_in_order_from_their_beginning_on():
    feed = TaskFeed()
    old = make(feed, "old")
    with feed.follow() as early:
        old.start()
        with feed.follow() as late:
            new = make(feed, "new")
            old.complete(())
            new.cancel("enough")
            feed.end()
            assert await read(late) == [("new", 1), ("old", 3), ("new", 2)]
        assert await read(early) == [("old", 2), ("new", 1), ("old", 3), ("new", 2)]


async def test_what_waits_keeps_no_output():
    feed = TaskFeed()
    with feed.follow() as follower:
        make(feed).complete((Part.of("x" * 1000),))
        feed.end()
        changes = [change async for change in follower.changes()]
    assert [change.newest.output for change in changes] == [(), ()]


async def test_who_does_not_keep_up_is_told_so_and_others_are_not_hurt():
    feed = TaskFeed(most_waiting=3)
    with feed.follow() as slow, feed.follow() as quick:
        task = make(feed)
        task.start()
        reading = quick.changes()
        assert [(await anext(reading)).newest.sequence for _ in range(2)] == [1, 2]
        task.report(0.1)
        task.report(0.2)
        assert [(await anext(reading)).newest.sequence for _ in range(2)] == [3, 4]
        with pytest.raises(ResourceExhausted) as caught:
            await read(slow)
        assert caught.value.reason == "SLOW_CONSUMER"


async def test_who_begins_after_the_end_hears_nothing_and_ends():
    feed = TaskFeed()
    feed.end()
    with feed.follow() as follower:
        assert await read(follower) == []
