"""What one side has said about a task."""

from dataclasses import dataclass
from datetime import datetime

from mesh.agent.part import Part


@dataclass(frozen=True, slots=True)
class Message:
    """A turn of the conversation about a task; `is_agents` when the agent speaks, `metadata` a JSON object or b""."""

    id: str
    parts: tuple[Part, ...]
    time: datetime
    is_agents: bool = False
    metadata: bytes = b""
    extensions: tuple[str, ...] = ()
    reference_task_ids: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of its content, about."""
        return len(self.metadata) + sum(len(part.content) + len(part.metadata) for part in self.parts)
