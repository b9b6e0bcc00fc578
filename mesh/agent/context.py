"""What a handler knows about its task."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from mesh.agent.message import Message
from mesh.agent.part import Part
from mesh.agent.task import Task, TaskState
from mesh.agent.user import User
from mesh.errors import FailedPrecondition

if TYPE_CHECKING:
    from mesh.agent.client import MeshClient


Ask = Callable[[Sequence[Part], TaskState], Awaitable[Message]]


class TaskContext:
    """Given to a handler as its second argument; belongs to one task.

    When the task is cancelled, or late, the handler is cancelled as any asyncio code (CancelledError at its next
    await); `is_canceled` is for code that runs beside the event loop, in a thread.
    """

    def __init__(self, task: Task, mesh: "MeshClient", ask: Ask) -> None:
        self._task = task
        self._mesh = mesh
        self._is_canceled = False
        self._ask = ask

    @property
    def id(self) -> str:
        """The task's id."""
        return self._task.id

    @property
    def context_id(self) -> str:
        """The group that the task belongs to."""
        return self._task.origin.context_id

    @property
    def submitter(self) -> str:
        """SPIFFE id of the workload that submitted the task; "" when it came without a sidecar."""
        return self._task.origin.submitter

    @property
    def user(self) -> User | None:
        """On whose behalf the task runs, as a gateway has vouched for; None for nobody's.

        Calls that the handler makes by `mesh` are made on the same user's behalf.
        """
        return self._task.origin.user

    @property
    def mesh(self) -> "MeshClient":
        """The way to the tools and agents of the mesh."""
        return self._mesh

    @property
    def is_canceled(self) -> bool:
        """Whether the work shall end."""
        return self._is_canceled

    @property
    def history(self) -> Sequence[Message]:
        """What both sides have said, oldest first; the first message is the input."""
        return tuple(self._task.history)

    async def ask(self, *question: Any, needs_login: bool = False) -> Message:
        """Ask who has submitted the task, and return the answer.

        The parts of the question may be what `Part.of` takes. With `needs_login` the submitter is to log in somewhere,
        as the question says, and then to answer. Meanwhile the task takes no place and its time stands still. Raises
        DeadlineExceeded when no answer comes within the limit `max_wait_seconds`.
        """
        state = TaskState.AUTH_REQUIRED if needs_login else TaskState.INPUT_REQUIRED
        return await self._ask([Part.of(value) for value in question], state)

    def reject(self, why: str) -> NoReturn:
        """End the task as one that the agent does not want, with the reason in a sentence for people."""
        raise FailedPrecondition(why, reason="TASK_REJECTED")

    def report(self, progress: float, message: str = "") -> None:
        """Tell how far the work is, 0 to 1, and what it does, in one sentence for people.

        May be called as often as one likes: reports in quick succession are merged. Call it in the event loop's thread.
        """
        self._task.report(progress, message)

    def add_output(self, value: Any, *, name: str = "") -> None:
        """Give a part of the output before the end; see `Part.of` for what it may be."""
        self._task.add_output(Part.of(value, name=name))

    def _cancel(self) -> None:
        self._is_canceled = True
