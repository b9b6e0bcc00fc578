"""How long streams wait."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Times:
    """All in seconds."""

    heartbeat: float = 15.0
    """Silence after which a reader is told that the stream lives."""
    send: float = 30.0
    """For a reader to take what is sent."""
