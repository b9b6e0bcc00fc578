"""A task that has not ended, and the asyncio task that works on it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mesh.agent.context import TaskContext
from mesh.agent.message import Message
from mesh.agent.part import Part
from mesh.agent.task import Task, TaskState
from mesh.errors import DeadlineExceeded, FailedPrecondition, MeshError

if TYPE_CHECKING:
    from mesh.agent.client import MeshClient

REJECTED = "TASK_REJECTED"
"""The reason of the error by which a handler says that it does not want the task."""


class Run:
    """Made by the board. `places` are those of all tasks; `max_wait` is in seconds, for one answer."""

    def __init__(
        self,
        task: Task,
        mesh: "MeshClient",
        places: asyncio.Semaphore,
        max_wait: float,
        now: Callable[[], datetime],
    ) -> None:
        self.task = task
        self.context = TaskContext(task, mesh, self._ask)
        self.job: asyncio.Task[None] | None = None
        self.stopped: MeshError | str | None = None
        self.limit: asyncio.Timeout | None = None
        self._places = places
        self._has_place = False
        self._max_wait = max_wait
        self._now = now
        self._answer: asyncio.Future[Message] | None = None

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Work inside of the block: it begins when there is a place."""
        await self._take_place()
        try:
            yield
        finally:
            self._leave_place()

    def stop(self, why: MeshError | str) -> None:
        """Let it end: as failed with an error, as cancelled with a reason. The first word counts."""
        self.stopped = self.stopped or why
        self.context._cancel()
        if self.job is not None:
            self.job.cancel()

    def end(self, output: Any, error: MeshError | None) -> None:
        """Write down how it ended by itself."""
        if error is not None and error.reason == REJECTED:
            self.task.reject(error.summary)
            return
        if error is None:
            try:
                self.task.complete(() if output is None else (Part.of(output),))
                return
            except MeshError as err:
                error = err
        self.task.fail(error)

    def answer(self, message: Message) -> None:
        """Go on with what the submitter has said; the task waits no more at once, so that nobody answers twice."""
        assert self._answer is not None
        self.task.hear(message)
        self.task.resume()
        if not self._answer.done():
            self._answer.set_result(message)

    async def _ask(self, parts: Sequence[Part], state: TaskState) -> Message:
        """Ask the submitter. Meanwhile the task takes no place, and its time stands still."""
        if self.limit is None or self._answer is not None:
            raise FailedPrecondition("The task has asked already.", fix="Wait for the answer, then ask again.")
        loop = asyncio.get_running_loop()
        self._answer = loop.create_future()
        ends_at = self.limit.when()
        left = None if ends_at is None else ends_at - loop.time()
        number = len(self.task.history) + 1
        try:
            self.task.ask(Message(f"{self.task.id}-m{number}", tuple(parts), self._now(), is_agents=True), state)
            self.limit.reschedule(None)
            self._leave_place()
            try:
                async with asyncio.timeout(self._max_wait) as waiting:
                    answer = await self._answer
            except TimeoutError as err:
                if not waiting.expired():
                    raise
                raise DeadlineExceeded(
                    f"Nobody has answered within {self._max_wait:g} s.", fix="Submit the task again, and answer sooner."
                ) from err
            await self._take_place()
            self.limit.reschedule(None if left is None else loop.time() + left)
            return answer
        finally:
            self._answer = None

    async def _take_place(self) -> None:
        await self._places.acquire()
        self._has_place = True

    def _leave_place(self) -> None:
        if self._has_place:
            self._has_place = False
            self._places.release()
