"""What operators see of a connected proxy."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from mesh.model import SpiffeId


def utc_now() -> datetime:
    """The time of day, with its zone."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class TypeStatus:
    """What a proxy has of one resource type. Versions are those of the state that a response was built from."""

    type: str
    subscribed: int
    sent_version: str
    acked_version: str
    ack_time: datetime | None
    nack_message: str
    nack_time: datetime | None
    held_back: tuple[str, ...]
    sent_time: datetime | None = None
    is_waiting: bool = False


@dataclass(frozen=True, slots=True)
class ProxyStatus:
    """A connected proxy."""

    node_id: str
    spiffe_id: SpiffeId
    service: str
    protocol: str
    connect_time: datetime
    user_agent: str
    resources: tuple[TypeStatus, ...]


@dataclass(slots=True)
class TypeRecord:
    """The record from which a TypeStatus is made."""

    sent_version: str = ""
    sent_time: datetime | None = None
    is_waiting: bool = False
    acked_version: str = ""
    ack_time: datetime | None = None
    nack_message: str = ""
    nack_time: datetime | None = None
    clock: Callable[[], datetime] = field(default=utc_now)

    def note_sent(self, version: str) -> None:
        """A response was sent."""
        self.sent_version, self.sent_time, self.is_waiting = version, self.clock(), True

    def note_ack(self) -> None:
        """The newest response was accepted."""
        self.is_waiting = False
        self.acked_version, self.ack_time = self.sent_version, self.clock()

    def note_nack(self, message: str) -> None:
        """The newest response was refused."""
        self.is_waiting = False
        self.nack_message, self.nack_time = message, self.clock()
