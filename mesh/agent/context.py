"""What a handler knows about its task."""

from typing import TYPE_CHECKING, Any

from mesh.agent.part import Part
from mesh.agent.task import Task
from mesh.agent.user import User

if TYPE_CHECKING:
    from mesh.agent.client import MeshClient


class TaskContext:
    """Given to a handler as its second argument; belongs to one task.

    When the task is cancelled, or late, the handler is cancelled as any asyncio code (CancelledError at its next
    await); `is_canceled` is for code that runs beside the event loop, in a thread.
    """

    def __init__(self, task: Task, mesh: "MeshClient") -> None:
        self._task = task
        self._mesh = mesh
        self._is_canceled = False

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
