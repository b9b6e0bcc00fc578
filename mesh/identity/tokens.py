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
import math
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from mesh.errors import FailedPrecondition, InvalidInput, PermissionDenied, Unauthenticated
from mesh.identity.root import utc_now
from mesh.identity.server_tls import CONTROL_PLANE
from mesh.model import check_service_name
from mesh.runtime.private_files import hold_private_dir, read_secret, write_file
from mesh.telemetry import get_logger

RESERVED = frozenset({CONTROL_PLANE})
"""Services for which no join token is made: their certificates never leave the control plane."""

_PREFIX = "amj1"
_LONGEST = 2048
_KEY_BYTES = hashlib.sha256().digest_size
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_REMEMBERED = 1000
_NEW_TOKEN = "Make a new one with `meshctl token create SERVICE`."  # noqa: S105 (advice, not a token)

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TokenClaims:
    """What a token says. `ca` is the SHA-256 of the root's DER, hexadecimal."""

    id: str
    service: str
    expires: datetime
    ca: str


class JoinTokens:
    """Makes and redeems join tokens. Made by `open`. May be used by several threads, and processes on one folder."""

    def __init__(self, key: bytes, used_path: Path, *, clock: Callable[[], datetime]) -> None:
        self._key = key
        self._used_path = used_path
        self._clock = clock
        # A file that is of no use is told at the start, and not to the first workload.
        _read_used(used_path)

    @classmethod
    def open(cls, directory: Path, *, clock: Callable[[], datetime] = utc_now) -> Self:
        """Load the MAC key and the used tokens from `directory`, or make them; raises FailedPrecondition."""
        with hold_private_dir(directory):
            path = directory / "token.key"
            key = read_secret(path)
            if key is None or len(key) != _KEY_BYTES:
                if key is not None:
                    # A damaged key costs no more than the tokens that are on their way.
                    _log.warning("token_key_made_anew", path=str(path))
                key = secrets.token_bytes(_KEY_BYTES)
                write_file(path, key, mode=0o600)
            return cls(key, directory / "tokens.used", clock=clock)

    def create(self, service: str, lifetime: timedelta, *, fingerprint: str) -> tuple[str, datetime]:
        """A token and when it ends, a whole second; raises InvalidInput for a service that cannot have one."""
        check_service_name(service)
        check_not_reserved(service)
        expires = datetime.fromtimestamp(math.ceil((self._clock() + lifetime).timestamp()), UTC)
        claims = {
            "id": secrets.token_hex(12),
            "service": service,
            "expires": int(expires.timestamp()),
            "ca": fingerprint,
        }
        payload = _encode(json.dumps(claims, separators=(",", ":")).encode())
        return f"{_PREFIX}.{payload}.{_encode(self._mac(payload))}", expires

    def redeem(self, token: str, *, service: str, key_digest: bytes) -> TokenClaims:
        """Take a token for one key. The same key may come again until the token ends. Writes a file.

        Raises Unauthenticated (TOKEN_MISSING, TOKEN_MALFORMED, TOKEN_FOREIGN, TOKEN_EXPIRED, TOKEN_USED),
        PermissionDenied (TOKEN_WRONG_SERVICE), or FailedPrecondition when the use cannot be written down.
        """
        payload, mac = _split(token)
        if not hmac.compare_digest(mac, self._mac(payload)):
            raise _refused("The join token was made by another mesh, or was changed on its way.", "TOKEN_FOREIGN")
        claims = _claims_of(payload)
        if claims.expires <= self._clock():
            raise _refused(f"The join token ended at {claims.expires.isoformat()}.", "TOKEN_EXPIRED")
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
        with hold_private_dir(self._used_path.parent):
            # Read anew each time: another control plane may be on its way out, or in, on the same folder.
            used = _read_used(self._used_path)
            used_by = used.get(claims.id)
            if used_by is not None and hmac.compare_digest(used_by[0], digest):
                return
            if used_by is not None:
                raise _refused("The join token has been used by another workload.", "TOKEN_USED")
            kept = _keep(used, self._clock().timestamp())
            kept[claims.id] = (digest, claims.expires.timestamp())
            # On disk before the certificate leaves: a crash must not make the token good again.
            write_file(self._used_path, json.dumps(kept).encode(), mode=0o600)

    def _mac(self, payload: str) -> bytes:
        return hmac.digest(self._key, f"{_PREFIX}.{payload}".encode(), "sha256")


def check_not_reserved(service: str) -> None:
    """Raise InvalidInput for a service whose certificates are for the control plane alone."""
    if service in RESERVED:
        raise InvalidInput(
            f"The name {service!r} is reserved for the mesh itself.",
            reason="RESERVED_NAME",
            field="service",
            fix="Choose another name.",
        )


def read_claims(token: str) -> TokenClaims:
    """What a token says, unproven; raises Unauthenticated (TOKEN_MISSING, TOKEN_MALFORMED)."""
    payload, _ = _split(token)
    return _claims_of(payload)


def _split(token: str) -> tuple[str, bytes]:
    text = token.strip()
    if not text:
        raise _refused("There is no join token.", "TOKEN_MISSING")
    parts = text.split(".") if len(text) <= _LONGEST and text.isascii() else []
    if len(parts) != 3 or parts[0] != _PREFIX:
        raise _malformed()
    return parts[1], _decode(parts[2])


def _claims_of(payload: str) -> TokenClaims:
    try:
        facts: Any = json.loads(_decode(payload))
        claims = TokenClaims(
            id=facts["id"],
            service=facts["service"],
            expires=datetime.fromtimestamp(int(facts["expires"]), UTC),
            ca=facts["ca"],
        )
        is_whole = isinstance(claims.id, str) and _FINGERPRINT.fullmatch(claims.ca) is not None
        check_service_name(claims.service)
    except (ValueError, LookupError, TypeError, OverflowError, OSError, RecursionError, InvalidInput) as err:
        raise _malformed() from err
    if not is_whole:
        raise _malformed()
    return claims


def _refused(summary: str, reason: str) -> Unauthenticated:
    return Unauthenticated(summary, reason=reason, field="join_token", fix=_NEW_TOKEN)


def _malformed() -> Unauthenticated:
    return Unauthenticated(
        "This is not a join token.",
        reason="TOKEN_MALFORMED",
        field="join_token",
        fix="Copy the whole token, or make a new one with `meshctl token create SERVICE`.",
    )


def _keep(used: Mapping[str, tuple[str, float]], now: float) -> dict[str, tuple[str, float]]:
    """What to remember: all tokens that last, and of the others some, for the clock may be set back."""
    by_end = sorted(used.items(), key=lambda item: item[1][1], reverse=True)
    lasting = sum(use[1] > now for use in used.values())
    return dict(by_end[: max(_REMEMBERED, lasting)])


def _read_used(path: Path) -> dict[str, tuple[str, float]]:
    text = read_secret(path)
    if text is None:
        return {}
    try:
        return {str(identifier): (str(use[0]), float(use[1])) for identifier, use in json.loads(text).items()}
    except (ValueError, AttributeError, TypeError, LookupError, RecursionError) as err:
        raise FailedPrecondition(
            f"{path} is damaged.",
            field=str(path),
            fix="Remove it and token.key beside it, and start anew; tokens made before are then of no use.",
        ) from err


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error) as err:
        raise _malformed() from err
    # Several texts stand for the same bytes: unused bits at the end, and "+/" beside "-_". One of them is ours.
    if _encode(data) != text:
        raise _malformed()
    return data
