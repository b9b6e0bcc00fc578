"""One task and its history.

A task is SUBMITTED, then WORKING, may wait for its submitter (INPUT_REQUIRED, AUTH_REQUIRED) and work again, and ends
as COMPLETED, FAILED, CANCELED or REJECTED. Each change is an update with the next sequence number. The history is kept
whole, so that a watcher can start after any number, and watchers read from it instead of having queues: a slow one
costs nothing. What bounds it is that reports of progress are merged.
"""

import asyncio
import enum
import math
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime

from mesh.agent.message import Message
from mesh.agent.part import Part
from mesh.agent.user import User
from mesh.errors import InvalidInput, MeshError, ResourceExhausted

_LONGEST_MESSAGE = 500
_REPORTS_PER_PACE = 200
_PART_OVERHEAD = 256


class TaskState(enum.IntEnum):
    """Where a task stands; the numbers are those of the contract."""

    SUBMITTED = 1
    WORKING = 2
    COMPLETED = 3
    FAILED = 4
    CANCELED = 5
    INPUT_REQUIRED = 6
    AUTH_REQUIRED = 7
    REJECTED = 8

    @property
    def is_end(self) -> bool:
        """Whether nothing comes after it."""
        return self in _ENDS

    @property
    def is_waiting(self) -> bool:
        """Whether the submitter has to do something."""
        return self in (TaskState.INPUT_REQUIRED, TaskState.AUTH_REQUIRED)


_ENDS = frozenset((TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELED, TaskState.REJECTED))


@dataclass(frozen=True, slots=True)
class Update:
    """One change of a task; `output` is what it added, `said` what the agent said with it."""

    sequence: int
    time: datetime
    state: TaskState
    progress: float
    message: str
    output: tuple[Part, ...] = ()
    error: MeshError | None = None
    said: Message | None = None


@dataclass(frozen=True, slots=True)
class TaskOrigin:
    """Where a task comes from. `submitter` is the SPIFFE id of the caller's certificate, or "".

    `user` is on whose behalf it was submitted, None for nobody's, and `user_token` what says so.
    """

    skill_id: str
    context_id: str = ""
    submitter: str = ""
    message_id: str = ""
    correlation_id: str = ""
    user: User | None = None
    user_token: str = field(default="", repr=False)

    @property
    def owner(self) -> str:
        """Whose message ids are its own: through one gateway many users come."""
        return f"{self.submitter} {self.user.principal}" if self.user is not None else self.submitter


class Task:
    """A piece of work that the agent has accepted. `serial` grows with each task of the agent."""

    def __init__(
        self,
        id: str,  # noqa: A002 - the word of the contract
        serial: int,
        origin: TaskOrigin,
        *,
        now: Callable[[], datetime],
        report_interval: float = 0.05,
        max_output_bytes: int = 4 << 20,
        on_change: "Callable[[Task], None] | None" = None,
    ) -> None:
        self.id = id
        self.serial = serial
        self.origin = origin
        self.output: list[Part] = []
        self.output_bytes = 0
        self.history_bytes = 0
        self.updates: list[Update] = []
        self.history: list[Message] = []
        """What both sides have said."""
        self._now = now
        self._interval = report_interval
        self._max_output_bytes = max_output_bytes
        self._on_change = on_change
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()
        self._progress = 0.0
        self._message = ""
        self._reports = 0
        self._flush: asyncio.TimerHandle | None = None
        self._has_news = False
        self._append(TaskState.SUBMITTED)

    @property
    def newest(self) -> Update:
        """The last update."""
        return self.updates[-1]

    @property
    def kept_bytes(self) -> int:
        """What of it takes room."""
        return self.output_bytes + self.history_bytes

    @property
    def created(self) -> datetime:
        """When the task was accepted."""
        return self.updates[0].time

    def start(self) -> None:
        """Now it runs."""
        self._append(TaskState.WORKING)

    def report(self, progress: float, message: str = "") -> None:
        """Note how far it is, 0 to 1; an empty message leaves the last one. Without effect on an ended task.

        Raises InvalidInput for what is not a number.
        """
        if not math.isfinite(progress):
            raise InvalidInput(f"{progress!r} is no progress.", field="progress", fix="Give a number from 0 to 1.")
        if self.newest.state.is_end or self.newest.state.is_waiting:
            return
        self._progress = min(max(float(progress), 0.0), 1.0)
        self._message = message[:_LONGEST_MESSAGE] or self._message
        if self._flush is not None:
            self._has_news = True
            return
        self._append(TaskState.WORKING)
        self._reports += 1
        if self._interval > 0:
            # The pace halves after every so many reports, so that the history grows with the logarithm of time.
            pause = self._interval * 2 ** (self._reports // _REPORTS_PER_PACE)
            self._flush = asyncio.get_running_loop().call_later(pause, self._flush_report)

    def hear(self, message: Message) -> None:
        """Note what the submitter has said."""
        self.history.append(message)
        self.history_bytes += message.size

    def ask(self, question: Message, state: TaskState) -> None:
        """Wait for the submitter; raises ResourceExhausted when too much was said already."""
        self._drop_flush()
        for part in question.parts:
            self._count(part)
        self.history.append(question)
        self._append(state, said=question)

    def resume(self) -> None:
        """Work again after an answer."""
        if not self.newest.state.is_end:
            self._append(TaskState.WORKING)

    def reject(self, reason: str) -> None:
        """It ended because the agent did not want it."""
        self._message = reason[:_LONGEST_MESSAGE]
        self._end(TaskState.REJECTED)

    def add_output(self, part: Part) -> None:
        """Add output before the end; raises ResourceExhausted when it is too much. Without effect on an ended task."""
        if not self.newest.state.is_end:
            self._count(part)
            self._append(TaskState.WORKING, output=(part,))

    def complete(self, output: tuple[Part, ...]) -> None:
        """It ended with a result; raises ResourceExhausted when that is too large, and then it has not ended."""
        for part in output:
            self._count(part)
        self._progress = 1.0
        self._end(TaskState.COMPLETED, output=output)

    def fail(self, error: MeshError) -> None:
        """It ended with an error."""
        # What is kept for long must not keep the frames of the code that failed.
        error.__traceback__ = error.__cause__ = error.__context__ = None
        self._message = error.summary[:_LONGEST_MESSAGE]
        self._end(TaskState.FAILED, error=error)

    def cancel(self, reason: str) -> None:
        """It ended because somebody cancelled it."""
        self._message = reason
        self._end(TaskState.CANCELED)

    async def wait_ended(self) -> None:
        """Return when the task has ended."""
        await self._ended.wait()

    async def watch(self, after: int = 0) -> AsyncIterator[Update]:
        """The updates after sequence number `after`, those of the past and those to come, until the end."""
        while True:
            changed = self._changed
            # Not a copy: an update is never changed, and the list only grows.
            while after < len(self.updates):
                update = self.updates[after]
                after += 1
                yield update
            if self.newest.state.is_end:
                return
            await changed.wait()

    def _flush_report(self) -> None:
        self._flush = None
        if self._has_news:
            self._has_news = False
            self.report(self._progress, self._message)

    def _count(self, part: Part) -> None:
        size = len(part.content) + _PART_OVERHEAD
        if self.output_bytes + size > self._max_output_bytes:
            raise ResourceExhausted(
                f"The output has more than {self._max_output_bytes} bytes.",
                reason="OUTPUT_TOO_LARGE",
                fix="Ask for less.",
                retryable=False,
            )
        self.output_bytes += size

    def _end(self, state: TaskState, *, output: tuple[Part, ...] = (), error: MeshError | None = None) -> None:
        if self.newest.state.is_end:
            return
        self._drop_flush()
        self._append(state, output=output, error=error)
        self._ended.set()

    def _drop_flush(self) -> None:
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None

    def _append(
        self,
        state: TaskState,
        *,
        output: tuple[Part, ...] = (),
        error: MeshError | None = None,
        said: Message | None = None,
    ) -> None:
        update = Update(len(self.updates) + 1, self._now(), state, self._progress, self._message, output, error, said)
        self.output.extend(output)
        self.updates.append(update)
        self._has_news = False
        self._changed.set()
        self._changed = asyncio.Event()
        if self._on_change is not None:
            self._on_change(self)
