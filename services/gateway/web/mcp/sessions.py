"""Sessions of hosts of the handshake era: the id of a session is all that there is of it, sealed.

Every gateway of the mesh can open it, none has to remember it; it counts for one principal and at one door only.
"""

import base64
import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mesh.errors import InvalidInput, NotFound, Unavailable
from mesh.mcp.frames import dump_json

LIFE = 7 * 86_400.0
"""Seconds for which a session counts."""
_LONGEST = 4096
_NONCE = 12


class Sealer:
    """Seals what clients keep for gateways; `keys` gives secrets of 32 bytes, newest first."""

    def __init__(self, keys: Callable[[], Sequence[bytes]]) -> None:
        self._keys = keys

    def seal(self, facts: dict[str, Any], purpose: str) -> str:
        """A text of URL characters. Raises Unavailable before any key is known."""
        keys = self._keys()
        if not keys:
            raise Unavailable("The gateway has no key to seal with yet.", reason="GATEWAY_STARTING", fix="Try again.")
        nonce = os.urandom(_NONCE)
        sealed = nonce + _cipher(keys[0]).encrypt(nonce, dump_json(facts), purpose.encode())
        return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()

    def open(self, text: str, purpose: str) -> dict[str, Any] | None:
        """What was sealed for this purpose; None for anything else."""
        if len(text) > 4 * _LONGEST:
            return None
        try:
            sealed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except ValueError:
            return None
        for key in self._keys():
            try:
                facts: dict[str, Any] = json.loads(
                    _cipher(key).decrypt(sealed[:_NONCE], sealed[_NONCE:], purpose.encode())
                )
            except (InvalidTag, ValueError):
                continue
            return facts
        return None

    def digest(self, *parts: str) -> str:
        """A name for what belongs to `parts` that says nothing of them, and that nobody else can make."""
        keys = self._keys()
        return hashlib.blake2b("\0".join(parts).encode(), key=keys[0] if keys else b"", digest_size=16).hexdigest()


@lru_cache(maxsize=16)
def _cipher(key: bytes) -> AESGCM:
    return AESGCM(key)


@dataclass(frozen=True, slots=True)
class Session:
    """What a host has said of itself when it came. `key` identifies the session within the gateway."""

    key: str
    version: str
    client: dict[str, Any]
    capabilities: dict[str, Any]
    has_logs: bool
    principal: str
    door: str
    began: float


class Sessions:
    """Makes and reads ids of sessions."""

    def __init__(self, sealer: Sealer, *, clock: Callable[[], float] = time.time, most_read: int = 4096) -> None:
        self._sealer = sealer
        self._clock = clock
        self._read = lru_cache(maxsize=most_read)(self._open)

    def begin(
        self,
        principal: str,
        door: str,
        version: str,
        client: dict[str, Any],
        capabilities: dict[str, Any],
        *,
        has_logs: bool = False,
    ) -> tuple[Session, str]:
        """A new session and its id; `has_logs` tells whether what is behind the door logs to hosts.

        Raises InvalidInput for a host that has too much to say of itself.
        """
        began = round(self._clock())
        session = Session(os.urandom(9).hex(), version, client, capabilities, has_logs, principal, door, began)
        facts = {
            "k": session.key,
            "v": version,
            "i": client,
            "c": capabilities,
            "l": has_logs,
            "p": principal,
            "d": door,
            "t": session.began,
        }
        sealed = self._sealer.seal(facts, "mcp session")
        if len(sealed) > _LONGEST:
            raise InvalidInput(
                "The client says too much of itself for a session.",
                field="params.capabilities",
                fix="Say less in clientInfo and capabilities.",
            )
        return session, sealed

    def find(self, text: str, principal: str, door: str) -> Session:
        """The session of an id. Raises NotFound for one that is none, has ended, or is somebody else's."""
        session = self._read(text)
        if (
            session is None
            or session.principal != principal
            or session.door != door
            or self._clock() - session.began > LIFE
        ):
            raise NotFound("There is no such session.", reason="SESSION_NOT_FOUND", fix="Initialize a new one.")
        return session

    def _open(self, text: str) -> Session | None:
        facts = self._sealer.open(text, "mcp session")
        if facts is None:
            return None
        return Session(*(facts[name] for name in ("k", "v", "i", "c", "l", "p", "d", "t")))
