"""Join tokens: short-lived proof that an operator wants one workload of one service in the mesh.

A token is `amj1.PAYLOAD.MAC`, both parts base64url. The payload is a JSON object {"id", "service", "expires", "ca"};
the MAC is HMAC-SHA-256 with a key that stays in the authority's folder. "ca" is the root's fingerprint, by which the
workload knows that it talks to the right authority. A token serves the first key that comes with it.
"""

import base64
import binascii
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from mesh.errors import FailedPrecondition, PermissionDenied, Unauthenticated
from mesh.identity.authority import utc_now
from mesh.identity.files import make_private_dir, read_secret, write_file
from mesh.model import check_service_name

_PREFIX = "amj1"
_LONGEST = 2048
_NEW_TOKEN = "Make a new one with `meshctl token create SERVICE`."  # noqa: S105 (advice, not a token)


@dataclass(frozen=True, slots=True)
class TokenClaims:
    """What a token says. `ca` is the SHA-256 of the root's DER, hexadecimal."""

    id: str
    service: str
    expires: datetime
    ca: str


class JoinTokens:
    """Makes and redeems join tokens. Made by `open`. Belongs to one event loop."""

    def __init__(self, key: bytes, used_path: Path, *, clock: Callable[[], datetime]) -> None:
        self._key = key
        self._used_path = used_path
        self._clock = clock
        self._used = _read_used(used_path)

    @classmethod
    def open(cls, directory: Path, *, clock: Callable[[], datetime] = utc_now) -> Self:
        """Load the MAC key and the used tokens from `directory`, or make them; raises FailedPrecondition."""
        make_private_dir(directory)
        path = directory / "token.key"
        key = read_secret(path)
        if not key or len(key) != hashlib.sha256().digest_size:
            # A damaged key costs no more than the tokens that are on their way.
            key = secrets.token_bytes(hashlib.sha256().digest_size)
            write_file(path, key, mode=0o600)
        return cls(key, directory / "tokens.used", clock=clock)

    def create(self, service: str, lifetime: timedelta, *, fingerprint: str) -> tuple[str, datetime]:
        """A token and when it ends; raises InvalidInput for a service name that is none."""
        check_service_name(service)
        expires = (self._clock() + lifetime).replace(microsecond=0)
        claims = {
            "id": secrets.token_hex(12),
            "service": service,
            "expires": int(expires.timestamp()),
            "ca": fingerprint,
        }
        payload = _encode(json.dumps(claims, separators=(",", ":")).encode())
        return f"{_PREFIX}.{payload}.{_encode(self._mac(payload))}", expires

    def redeem(self, token: str, *, service: str, key_digest: bytes) -> TokenClaims:
        """Take a token for one key. The same key may come again until the token ends.

        Raises Unauthenticated (TOKEN_MALFORMED, TOKEN_FOREIGN, TOKEN_EXPIRED, TOKEN_USED) or PermissionDenied
        (TOKEN_WRONG_SERVICE).
        """
        payload, mac = _split(token)
        if not hmac.compare_digest(mac, self._mac(payload)):
            raise Unauthenticated(
                "The join token was made by another mesh.", reason="TOKEN_FOREIGN", field="join_token", fix=_NEW_TOKEN
            )
        claims = _claims_of(payload)
        if claims.expires <= self._clock():
            raise Unauthenticated(
                f"The join token ended at {claims.expires.isoformat()}.",
                reason="TOKEN_EXPIRED",
                field="join_token",
                fix=_NEW_TOKEN,
            )
        if claims.service != service:
            raise PermissionDenied(
                f"The join token is for {claims.service}, not for {service}.",
                reason="TOKEN_WRONG_SERVICE",
                field="service",
                fix=_NEW_TOKEN,
            )
        self._use(claims, key_digest.hex())
        return claims

    def _use(self, claims: TokenClaims, digest: str) -> None:
        used_by = self._used.get(claims.id)
        if used_by is not None and used_by[0] == digest:
            return
        if used_by is not None:
            raise Unauthenticated(
                "The join token has been used by another workload.",
                reason="TOKEN_USED",
                field="join_token",
                fix=_NEW_TOKEN,
            )
        now = self._clock().timestamp()
        kept = {identifier: use for identifier, use in self._used.items() if use[1] > now}
        kept[claims.id] = (digest, claims.expires.timestamp())
        # On disk before the certificate leaves: a crash must not make the token good again.
        write_file(self._used_path, json.dumps(kept).encode(), mode=0o600)
        self._used = kept

    def _mac(self, payload: str) -> bytes:
        return hmac.digest(self._key, f"{_PREFIX}.{payload}".encode(), "sha256")


def read_claims(token: str) -> TokenClaims:
    """What a token says, unproven; raises Unauthenticated (TOKEN_MALFORMED)."""
    payload, _ = _split(token)
    return _claims_of(payload)


def _split(token: str) -> tuple[str, bytes]:
    parts = token.strip().split(".") if len(token) <= _LONGEST else []
    if len(parts) != 3 or parts[0] != _PREFIX:
        raise _malformed()
    return parts[1], _decode(parts[2])


def _claims_of(payload: str) -> TokenClaims:
    try:
        facts: Any = json.loads(_decode(payload))
        return TokenClaims(
            id=str(facts["id"]),
            service=str(facts["service"]),
            expires=datetime.fromtimestamp(int(facts["expires"]), UTC),
            ca=str(facts["ca"]),
        )
    except (ValueError, KeyError, TypeError, OverflowError, OSError) as err:
        raise _malformed() from err


def _malformed() -> Unauthenticated:
    return Unauthenticated(
        "This is not a join token.",
        reason="TOKEN_MALFORMED",
        field="join_token",
        fix="Copy the whole token, or make a new one with `meshctl token create SERVICE`.",
    )


def _read_used(path: Path) -> dict[str, tuple[str, float]]:
    text = read_secret(path)
    if text is None:
        return {}
    try:
        return {str(identifier): (str(use[0]), float(use[1])) for identifier, use in json.loads(text).items()}
    except (ValueError, AttributeError, TypeError, IndexError, KeyError) as err:
        raise FailedPrecondition(
            f"{path} is damaged.", field=str(path), fix="Remove it; tokens made before may then be used once more."
        ) from err


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error) as err:
        raise _malformed() from err
