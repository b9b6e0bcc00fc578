"""Tells followers of the changes of all tasks.

A follower has a queue of its own. One that does not keep up is ended with an error and begins anew, because a queue
without a bound would keep an agent's memory for a reader that has gone to sleep.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime

from mesh.agent.task import Task, TaskOrigin, Update
from mesh.errors import ResourceExhausted

MOST_WAITING = 1024
"""Changes that wait for one follower at most."""


@dataclass(frozen=True, slots=True)
class TaskChange:
    """A task as it stood after a change, without output, so that what waits is small."""

    id: str
    origin: TaskOrigin
    created: datetime
    newest: Update


class Follower:
    """The changes since it began to follow, in order. Made by `TaskFeed.follow`."""

    def __init__(self, most_waiting: int) -> None:
        self._most_waiting = most_waiting
        self._queue: deque[TaskChange] = deque()
        self._wake = asyncio.Event()
        self._has_ended = False
        self._is_late = False

    def put(self, change: TaskChange) -> None:
        """Add a change."""
        if self._is_late:
            return
        if len(self._queue) >= self._most_waiting:
            self._is_late = True
            self._queue.clear()
        else:
            self._queue.append(change)
        self._wake.set()

    def end(self) -> None:
        """Let it end after what waits."""
        self._has_ended = True
        self._wake.set()

    async def changes(self) -> AsyncIterator[TaskChange]:
        """The changes; ends when there will be none any more. Raises ResourceExhausted when it has missed some."""
        while True:
            while self._queue:
                yield self._queue.popleft()
            if self._is_late:
                raise ResourceExhausted(
                    f"More than {self._most_waiting} changes waited for this stream.",
                    reason="SLOW_CONSUMER",
                    fix="Call WatchTasks again, read what there is by ListTasks, and read faster.",
                    retryable=False,
                )
            if self._has_ended:
                return
            self._wake.clear()
            await self._wake.wait()


class TaskFeed:
    """Takes the changes of tasks. Belongs to one event loop."""

    def __init__(self, most_waiting: int = MOST_WAITING) -> None:
        self._most_waiting = most_waiting
        self._followers: set[Follower] = set()
        self._has_ended = False

    def tell(self, task: Task) -> None:
        """Tell all followers of the newest update of a task."""
        if not self._followers:
            return
        newest = task.newest
        change = TaskChange(task.id, task.origin, task.created, replace(newest, output=()))
        for follower in self._followers:
            follower.put(change)

    @contextmanager
    def follow(self) -> Iterator[Follower]:
        """A follower of all changes from now on, inside of the block."""
        follower = Follower(self._most_waiting)
        if self._has_ended:
            follower.end()
        self._followers.add(follower)
        try:
            yield follower
        finally:
            self._followers.discard(follower)

    def end(self) -> None:
        """No more changes come: let all followers end after what waits for them."""
        self._has_ended = True
        for follower in self._followers:
            follower.end()
