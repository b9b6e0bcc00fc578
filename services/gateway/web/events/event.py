"""What readers are told, and what they want to be told."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TASK_CHANGED, TASK_MISSED = "task.changed", "task.missed"
TYPES = ("service.added", "service.removed", "service.changed", "config.changed", TASK_CHANGED, TASK_MISSED)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that has happened. `id` is EPOCH-SEQUENCE; `subject` the service that it is about, "" for none."""

    id: str
    type: str
    time: str
    subject: str
    data: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As it is sent."""
        return {"id": self.id, "type": self.type, "time": self.time, "subject": self.subject, "data": self.data}


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that one reader is told about its own stream, in its place between the events.

    `id` is the event from which a reader goes on that begins anew after the notice, "" where it says nothing of that.
    """

    type: str
    data: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""

    def to_json(self) -> dict[str, Any]:
        """As it is sent."""
        return {"type": self.type, **({"id": self.id} if self.id else {}), **self.data}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a reader wants: types and subjects, empty for all of them, or nothing at all."""

    types: frozenset[str] = frozenset()
    subjects: frozenset[str] = frozenset()
    is_nothing: bool = False

    def has(self, event: Event) -> bool:
        """Whether it wants an event."""
        return self.has_type(event.type) and self.has_subject(event.subject)

    def has_type(self, kind: str) -> bool:
        """Whether it wants events of a type."""
        if self.is_nothing:
            return False
        # Who wants changes wants to know, too, that some are missing.
        return not self.types or kind in self.types or (kind == TASK_MISSED and TASK_CHANGED in self.types)

    def has_subject(self, subject: str) -> bool:
        """Whether it wants events about a subject."""
        return not self.is_nothing and (not self.subjects or subject in self.subjects)


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a stream ends. `code` closes a WebSocket: https://www.rfc-editor.org/rfc/rfc6455#section-7.4."""

    reason: str
    detail: str
    code: int
    is_orderly: bool = False
    """Whether the reader still gets what waits for it."""


SLOW = Ending("SLOW_CONSUMER", "Too many events waited: read faster, or want less.", 4008)
STUCK = Ending("SLOW_CONSUMER", "Nothing was read for too long.", 4008)
OLD = Ending("STREAM_TOO_OLD", "Connect again: the stream is older than a token may be.", 4001, is_orderly=True)
STOPPING = Ending("GATEWAY_STOPPING", "Connect again: this gateway stops.", 1001, is_orderly=True)
