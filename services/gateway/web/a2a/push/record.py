"""What is kept of one push configuration, sealed: it has credentials of the client's in it."""

import base64
import binascii
from dataclasses import dataclass, replace
from typing import Any

from a2a.types import a2a_pb2 as a2a
from google.protobuf.message import DecodeError

from mesh.access import Principal
from services.gateway.web.mcp.sessions import Sealer

_PURPOSE = "a2a push"


@dataclass(frozen=True, slots=True)
class Record:
    """A configuration, whose it is, and how far it has been told. `ends_at` is in seconds since the epoch.

    `sequence` is that of the last update that has been told, or given up. With `is_done` nothing is told any more.
    """

    agent: str
    config: a2a.TaskPushNotificationConfig
    principal: Principal
    sequence: int
    ends_at: float
    is_done: bool = False

    @property
    def key(self) -> str:
        """Its name in the storage."""
        return f"{self.agent}/{self.config.task_id}/{self.config.id}"

    def told(self, sequence: int) -> "Record":
        """After an update."""
        return replace(self, sequence=sequence)

    def done(self) -> "Record":
        """After the last one."""
        return replace(self, is_done=True)

    def seal(self, sealer: Sealer) -> bytes:
        """As it is kept. Raises Unavailable before there is a key."""
        facts = {
            "agent": self.agent,
            "config": base64.b64encode(self.config.SerializeToString()).decode(),
            "kind": self.principal.kind,
            "name": self.principal.name,
            "issuer": self.principal.issuer,
            "roles": list(self.principal.roles),
            "login": self.principal.login,
            "sequence": self.sequence,
            "ends": self.ends_at,
            "done": self.is_done,
        }
        return sealer.seal(facts, _PURPOSE).encode()


def open_record(sealed: bytes, sealer: Sealer) -> Record | None:
    """What was sealed; None for what cannot be read any more, as the keys have changed."""
    facts: dict[str, Any] | None = sealer.open(sealed.decode(errors="replace"), _PURPOSE)
    if facts is None:
        return None
    try:
        config = a2a.TaskPushNotificationConfig.FromString(base64.b64decode(facts["config"]))
        principal = Principal(
            facts["kind"], facts["name"], facts["issuer"], tuple(facts["roles"]), login=facts["login"]
        )
        return Record(
            facts["agent"], config, principal, int(facts["sequence"]), float(facts["ends"]), bool(facts["done"])
        )
    except (KeyError, TypeError, ValueError, DecodeError, binascii.Error):
        return None
