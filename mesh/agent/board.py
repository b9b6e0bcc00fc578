"""The tasks of one agent: taken in, run, kept for a while.

submit ──> waits for a place ──> handler ──> ended, kept ──> forgotten
                └────── cancel, deadline, drain ──┘
"""

import asyncio
import secrets
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mesh.agent.agent import Agent
from mesh.agent.message import Message
from mesh.agent.part import Part
from mesh.agent.run import Run
from mesh.agent.supervised import supervise_handler
from mesh.agent.task import Task, TaskOrigin, TaskState
from mesh.agent.task_feed import TaskFeed
from mesh.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidInput,
    MeshError,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from mesh.rpc.context import current_call, current_user
from mesh.telemetry import get_logger

if TYPE_CHECKING:
    from mesh.agent.client import MeshClient
    from mesh.agent.skill import Skill

_LONGEST_ID = 256
_LAST_CALLS = 5
_LAST_CALL_SECONDS = 1.0

_log = get_logger(__name__)


def _utc_now() -> datetime:
    return datetime.now(UTC)


class TaskBoard:
    """All tasks that the agent knows. Made by `open_board`."""

    def __init__(
        self,
        agent: Agent,
        mesh: "MeshClient",
        *,
        instance: str = "",
        now: Callable[[], datetime] = _utc_now,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.is_draining = False
        self.instance = instance
        self.feed = TaskFeed()
        """Tells of the changes of all tasks."""
        self._agent = agent
        self._limits = agent.limits
        self._mesh = mesh
        self._now = now
        self._clock = clock
        self._places = asyncio.Semaphore(agent.limits.max_concurrent_tasks)
        self._group = asyncio.TaskGroup()
        self._serial = 0
        self._watchers = 0
        self._kept_bytes = 0
        self._tasks: dict[str, Task] = {}
        self._by_message: dict[tuple[str, str], str] = {}
        self._running: dict[str, Run] = {}
        # Ended tasks with the moment of their end, oldest first.
        self._ended: OrderedDict[str, float] = OrderedDict()

    @property
    def running(self) -> int:
        """Tasks that have not ended."""
        return len(self._running)

    def submit(
        self,
        origin: TaskOrigin,
        parts: Sequence[Part],
        *,
        timeout: float | None = None,
        message: Message | None = None,
    ) -> Task:
        """Accept a task, or return the one that the same submitter gave the same message id.

        `message` is what the parts came with. `timeout` is in seconds; the agent's own limit holds when it is shorter.
        Raises NotFound for an unknown skill, InvalidInput for input that does not fit it or is too large,
        ResourceExhausted when there is no place, and Unavailable when the agent is ending.
        """
        self._forget_old()
        _check_ids(origin)
        known = self._known(origin)
        if known is not None:
            return known
        skill = self._skill(origin.skill_id)
        self._check_size(parts)
        self._check_room()
        value = skill.parse_input(parts)
        task = self._add(origin)
        task.hear(message or Message(origin.message_id or uuid.uuid4().hex, tuple(parts), self._now()))
        limit = self._limits.max_task_seconds
        run = Run(task, self._mesh, self._places, self._limits.max_wait_seconds, self._now)
        self._running[task.id] = run
        run.job = self._group.create_task(
            self._work(run, skill, value, min(limit, timeout) if timeout else limit), name=f"task {task.id}"
        )
        # Also for a task that is cancelled before its coroutine has made its first step.
        run.job.add_done_callback(lambda _: self._note_end(run))
        return task

    def answer(self, origin: TaskOrigin, task_id: str, message: Message) -> Task:
        """Give a task that waits what it waits for; who gives the same message id again changes nothing.

        Raises NotFound for a task that is not known, or not of this submitter; FailedPrecondition when it does not
        wait; InvalidInput for an answer that is too large.
        """
        _check_ids(origin)
        known = self._known(origin)
        if known is not None:
            return known
        task = self.get(task_id)
        if task.origin.owner != origin.owner:
            raise self._unknown(task_id)
        if origin.context_id not in ("", task.origin.context_id):
            raise InvalidInput("The task belongs to another group.", field="context_id", fix="Leave it out.")
        self._check_size(message.parts)
        run = self._running.get(task_id)
        if run is None or not task.newest.state.is_waiting:
            raise FailedPrecondition(
                f"The task {task_id} waits for nothing: it is {task.newest.state.name}.",
                reason="TASK_NOT_WAITING",
                field="task_id",
                fix="Begin a new task: leave task_id out.",
            )
        if origin.message_id:
            self._by_message[origin.owner, origin.message_id] = task_id
        run.answer(message)
        return task

    def get(self, task_id: str) -> Task:
        """The task; raises NotFound when it is not known, which says so when another instance has made it."""
        self._forget_old()
        task = self._tasks.get(task_id)
        if task is not None:
            return task
        instance, dot, _ = task_id.rpartition(".")
        if dot and instance != self.instance:
            raise NotFound(
                f"The task {task_id[:_LONGEST_ID]!r} is not of this instance of {self._agent.name}.",
                reason="TASK_OF_OTHER_INSTANCE",
                field="task_id",
                fix="Ask again: another instance may answer. If none knows it, it is gone; submit it again.",
            )
        raise self._unknown(task_id)

    def _unknown(self, task_id: str) -> NotFound:
        return NotFound(
            f"{self._agent.name} does not know a task {task_id[:_LONGEST_ID]!r}.",
            reason="UNKNOWN_TASK",
            field="task_id",
            fix=f"Ended tasks are kept for {self._limits.kept_seconds:g} s at most; submit it again.",
        )

    def _known(self, origin: TaskOrigin) -> Task | None:
        """The task that the same submitter gave the same message id."""
        known = self._by_message.get((origin.owner, origin.message_id)) if origin.message_id else None
        return None if known is None else self._tasks[known]

    def newest_first(self, *, before: int | None = None) -> Iterator[Task]:
        """The tasks with a serial number below `before`, newest first."""
        self._forget_old()
        return (task for task in reversed(self._tasks.values()) if before is None or task.serial < before)

    async def cancel(self, task_id: str, *, by: str = "") -> Task:
        """Stop a task and return it when it has stopped; one that has ended is returned unchanged.

        Raises NotFound. Cancelling this call leaves the task cancelled all the same.
        """
        task = self.get(task_id)
        run = self._running.get(task_id)
        if run is not None:
            run.stop(f"Canceled by {by}." if by else "Canceled.")
            await task.wait_ended()
        return task

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count a watcher while it watches; raises ResourceExhausted when there are too many."""
        if self._watchers >= self._limits.max_watchers:
            raise ResourceExhausted(
                f"{self._watchers} streams watch tasks of {self._agent.name} already.",
                reason="TOO_MANY_WATCHERS",
                fix="Close some, or ask with GetTask.",
            )
        self._watchers += 1
        try:
            yield
        finally:
            self._watchers -= 1

    async def drain_when(self, draining: asyncio.Event) -> None:
        """Once `draining` is set: fail what waits, give what runs its time, then fail it, too, and end the feed."""
        await draining.wait()
        self.is_draining = True
        try:
            await self._drain()
        finally:
            self.feed.end()

    async def _drain(self) -> None:
        for run in tuple(self._running.values()):
            state = run.task.newest.state
            if state is TaskState.SUBMITTED or state.is_waiting:
                run.stop(self._ending())
        if self._running:
            _log.info("tasks_draining", running=len(self._running), seconds=self._limits.drain_seconds)
            await asyncio.wait(self._jobs(), timeout=self._limits.drain_seconds)
        # More than once, for handlers that swallow a cancellation.
        for _ in range(_LAST_CALLS):
            if not self._running:
                return
            for run in tuple(self._running.values()):
                run.stop(self._ending())
            await asyncio.wait(self._jobs(), timeout=_LAST_CALL_SECONDS)
        for run in tuple(self._running.values()):
            _log.error("task_stuck", task=run.task.id, skill=run.task.origin.skill_id)
            run.task.fail(self._ending())

    def _jobs(self) -> list["asyncio.Task[None]"]:
        return [run.job for run in self._running.values() if run.job is not None]

    async def _work(self, run: Run, skill: "Skill", value: Any, timeout: float) -> None:
        # The call that submitted the task is over; its correlation id stays, and on whose behalf it was made.
        current_call.set(None)
        current_user.set(run.task.origin.user_token)
        task = run.task
        async with run.place():
            task.start()
            limit = run.limit = asyncio.timeout(timeout)
            output, error = await supervise_handler(skill.handler(value, run.context), limit, skill.id)
        if limit.expired():
            run.context._cancel()
            error = DeadlineExceeded(
                f"The task ran longer than the {timeout:g} s that it may.",
                fix=f"Ask for less, or give a longer timeout; the agent allows {self._limits.max_task_seconds:g} s.",
            )
        if run.stopped is None:
            run.end(output, error)

    def _note_end(self, run: Run) -> None:
        """Whatever way the job ended, the task has ended now."""
        task = run.task
        if isinstance(run.stopped, MeshError):
            task.fail(run.stopped)
        elif not task.newest.state.is_end:
            task.cancel(run.stopped or "Canceled.")
        self._running.pop(task.id, None)
        self._kept_bytes += task.kept_bytes
        self._ended[task.id] = self._clock()
        _log.debug("task_ended", task=task.id, skill=task.origin.skill_id, state=task.newest.state.name)
        self._forget_old()

    def _forget_old(self) -> None:
        limits, oldest_kept = self._limits, self._clock() - self._limits.kept_seconds
        while self._ended:
            task_id, ended = next(iter(self._ended.items()))
            is_over = len(self._ended) > limits.kept_tasks or self._kept_bytes > limits.kept_bytes
            if not is_over and ended >= oldest_kept:
                return
            del self._ended[task_id]
            task = self._tasks.pop(task_id)
            self._kept_bytes -= task.kept_bytes
            for message in task.history:
                self._by_message.pop((task.origin.owner, message.id), None)

    def _add(self, origin: TaskOrigin) -> Task:
        self._serial += 1
        if not origin.context_id:
            origin = replace(origin, context_id=uuid.uuid4().hex)
        identifier = secrets.token_hex(16)
        task = Task(
            f"{self.instance}.{identifier}" if self.instance else identifier,
            self._serial,
            origin,
            now=self._now,
            report_interval=self._limits.report_interval,
            max_output_bytes=self._limits.max_output_bytes,
            on_change=self.feed.tell,
        )
        self._tasks[task.id] = task
        if origin.message_id:
            self._by_message[origin.owner, origin.message_id] = task.id
        return task

    def _skill(self, skill_id: str) -> "Skill":
        skill = self._agent.skills.get(skill_id)
        if skill is None:
            raise NotFound(
                f"{self._agent.name} has no skill {skill_id[:_LONGEST_ID]!r}.",
                reason="UNKNOWN_SKILL",
                field="skill_id",
                fix=f"It has: {', '.join(self._agent.skills) or 'none'}.",
            )
        return skill

    def _check_size(self, parts: Sequence[Part]) -> None:
        size = sum(len(part.content) for part in parts)
        if size > self._limits.max_input_bytes:
            raise InvalidInput(
                f"The input has {size} bytes; {self._agent.name} takes {self._limits.max_input_bytes} at most.",
                reason="INPUT_TOO_LARGE",
                field="input",
                fix="Send less.",
            )

    def _check_room(self) -> None:
        if self.is_draining:
            raise self._ending()
        most = self._limits.max_concurrent_tasks + self._limits.max_queued_tasks
        if len(self._running) >= most:
            raise ResourceExhausted(
                f"{self._agent.name} has {len(self._running)} tasks, which is the most that it takes.",
                reason="TOO_MANY_TASKS",
                fix="Try again in a moment.",
            )

    def _ending(self) -> Unavailable:
        return Unavailable(
            f"{self._agent.name} is shutting down.",
            reason="AGENT_SHUTTING_DOWN",
            fix="Submit the task again; another instance takes it.",
        )


@asynccontextmanager
async def open_board(agent: Agent, mesh: "MeshClient", *, instance: str = "") -> AsyncIterator[TaskBoard]:
    """A board whose tasks run inside of the block; at its end those that are left are cancelled and awaited.

    Tasks get their time when `drain_when` is awaited before.
    """
    board = TaskBoard(agent, mesh, instance=instance)
    try:
        async with board._group:
            try:
                yield board
            finally:
                board.is_draining = True
                for run in tuple(board._running.values()):
                    run.stop(board._ending())
                board.feed.end()
    except BaseExceptionGroup as several:
        if len(several.exceptions) == 1:
            raise several.exceptions[0] from None
        raise


def _check_ids(origin: TaskOrigin) -> None:
    for field in ("message_id", "context_id", "skill_id"):
        if len(getattr(origin, field)) > _LONGEST_ID:
            raise InvalidInput(f"It has more than {_LONGEST_ID} characters.", field=field, fix="Use a shorter one.")
