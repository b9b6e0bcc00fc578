"""Codes of devices that wait for a person to log in for them: RFC 8628, without its HTTP.

begin ──> waiting ──grant──> granted ──poll──> gone
             └──────── ten minutes ──────────> gone
"""

import hashlib
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from agentmesh.gateway.v1 import gateway_service_pb2 as pb
from mesh.errors import ResourceExhausted
from services.gateway.web.tokens.oauth import OAuthError

LIFETIME = 600
"""Seconds that a code lives."""

_INTERVAL = 5
_MOST = 1000
_MOST_PER_CLIENT = 20

# No vowels, so that no words come out, and nothing that looks like something else (section 6.1). 34 random bits: who
# guesses one can only give tokens of his own away, and Attempts bounds the guessing.
_ALPHABET = "BCDFGHJKLMNPQRSTVWXZ"
_LENGTH = 8


@dataclass(frozen=True, slots=True)
class DeviceCode:
    """What a device is told. `user_code` is for the person, `device_code` a secret of the device; times in seconds."""

    device_code: str
    user_code: str
    expires_in: int = LIFETIME
    interval: int = _INTERVAL


@dataclass(slots=True)
class _Waiting:
    client: str
    address: str
    user_code: str
    ends: float
    interval: int = _INTERVAL
    polled: float | None = None
    issued: pb.IssueTokenResponse | None = None
    issued_at: float = 0.0


class DeviceCodes:
    """The codes of one gateway, in memory. Belongs to one event loop."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # By the hash of the device code: how long a look-up takes tells nothing of the code.
        self._waiting: dict[bytes, _Waiting] = {}

    def begin(self, client: str, address: str) -> DeviceCode:
        """Make a code for the client of that name. Raises ResourceExhausted when there are too many."""
        here = sum(waiting.address == address for waiting in self._waiting.values())
        if len(self._waiting) >= _MOST or here >= _MOST_PER_CLIENT:
            raise ResourceExhausted(
                "Too many devices wait for a login.", reason="TOO_MANY_DEVICES", fix="Try again in some minutes."
            )
        known = {waiting.user_code for waiting in self._waiting.values()}
        user_code = next(code for code in iter(_random_code, "") if code not in known)
        made = DeviceCode(secrets.token_urlsafe(32), f"{user_code[:4]}-{user_code[4:]}")
        self._waiting[_digest(made.device_code)] = _Waiting(client, address, user_code, self._clock() + LIFETIME)
        return made

    def waits(self, user_code: str) -> bool:
        """Whether a device waits for a login with that code, however it is spelt."""
        return self._find(user_code) is not None

    def grant(self, user_code: str, issued: pb.IssueTokenResponse) -> bool:
        """Give tokens to the device; False when it waits no more."""
        waiting = self._find(user_code)
        if waiting is None:
            return False
        waiting.issued, waiting.issued_at = issued, self._clock()
        return True

    def poll(self, device_code: str, client: str) -> pb.IssueTokenResponse:
        """The tokens for a device, once. Raises OAuthError with what RFC 8628, section 3.5, has for the device."""
        digest, now = _digest(device_code), self._clock()
        waiting = self._waiting.get(digest)
        if waiting is None or waiting.client != client:
            raise OAuthError("invalid_grant", "The device code is not known here, or was used already.")
        if now >= waiting.ends:
            raise OAuthError("expired_token", "The device code has ended. Begin again.")
        is_early = waiting.polled is not None and now - waiting.polled < waiting.interval
        waiting.polled = now
        if is_early:
            waiting.interval += _INTERVAL
            raise OAuthError("slow_down", f"Ask every {waiting.interval} s.")
        if waiting.issued is None:
            raise OAuthError("authorization_pending", "Nobody has logged in yet.")
        del self._waiting[digest]
        issued = pb.IssueTokenResponse()
        issued.CopyFrom(waiting.issued)
        issued.expires_in = max(0, issued.expires_in - int(now - waiting.issued_at))
        return issued

    def sweep(self) -> list[str]:
        """Forget the codes that have ended; gives the refresh tokens that nobody has fetched, which should end, too."""
        now, left = self._clock(), []
        for digest, waiting in list(self._waiting.items()):
            if now >= waiting.ends:
                del self._waiting[digest]
                if waiting.issued is not None and waiting.issued.refresh_token:
                    left.append(waiting.issued.refresh_token)
        return left

    def _find(self, user_code: str) -> _Waiting | None:
        plain = re.sub(r"[\s-]", "", user_code).upper()
        now = self._clock()
        return next(
            (
                waiting
                for waiting in self._waiting.values()
                if waiting.user_code == plain and waiting.issued is None and now < waiting.ends
            ),
            None,
        )


def _random_code() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))


def _digest(device_code: str) -> bytes:
    return hashlib.sha256(device_code.encode()).digest()
