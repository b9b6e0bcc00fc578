"""The keys of the token issuer: one signs, others are still, or already, in the key set (RFC 7517).

made ──ANNOUNCED──> signs ──next one signs──> kept for the life of a token ──> gone
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mesh.access.stored import Stored

ANNOUNCED = 10.0
"""Seconds for which a new key is in the key set before it signs: all gateways have it by then."""

_MARGIN = 60.0
"""Seconds beyond the life of a token, for clocks that differ."""

PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class SigningKeyRecord:
    """A key; times are seconds since 1970. It signs from `signs_from`; None: it is not known yet when it goes."""

    id: str
    algorithm: str
    private_key: str
    created: float
    signs_from: float
    retires: float | None = None

    def load(self) -> PrivateKey:
        """The key itself."""
        key = serialization.load_pem_private_key(self.private_key.encode(), password=None)
        assert isinstance(key, ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey)
        return key

    @classmethod
    def create(cls, algorithm: str, *, now: float, signs_from: float) -> Self:
        """A new one for "EdDSA" (Ed25519) or "ES256"; its id is the thumbprint of its public key (RFC 7638)."""
        key: PrivateKey = (
            ed25519.Ed25519PrivateKey.generate() if algorithm == "EdDSA" else ec.generate_private_key(ec.SECP256R1())
        )
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return cls(_thumbprint(_public(key)), algorithm, pem.decode(), now, signs_from)


class SigningKeys:
    """The keys in one folder, oldest first."""

    def __init__(self, directory: Path) -> None:
        self._stored = Stored(directory / "signing-keys.json")

    def reload(self) -> bool:
        """Take over what another process has done; tells whether there was something."""
        return self._stored.reload()

    def all(self) -> tuple[SigningKeyRecord, ...]:
        """All keys, oldest first."""
        return _read(self._stored.content)

    def signer(self, now: float) -> SigningKeyRecord:
        """The key that signs now."""
        keys = self.all()
        ready = [key for key in keys if key.signs_from <= now]
        return ready[-1] if ready else keys[0]

    def jwks(self) -> str:
        """The key set: the public parts of all keys, as JSON text."""
        keys = [
            _public(key.load()) | {"kid": key.id, "alg": key.algorithm, "use": "sig"} for key in reversed(self.all())
        ]
        return json.dumps({"keys": keys}, separators=(",", ":"), sort_keys=True)

    def sealing_keys(self) -> list[bytes]:
        """A secret of 32 bytes for each key, newest first, from which nothing follows about the key (RFC 5869)."""
        return [
            HKDF(hashes.SHA256(), 32, salt=None, info=b"agentmesh sealing").derive(key.private_key.encode())
            for key in reversed(self.all())
        ]

    def rotate(self, algorithm: str, *, now: float, token_life: float) -> SigningKeyRecord:
        """Make a new key, which signs after ANNOUNCED seconds; the others go when their last token has ended."""
        made: list[SigningKeyRecord] = []

        def change(content: dict[str, Any]) -> None:
            keys = [key for key in _read(content) if key.retires is None or key.retires > now]
            fresh = SigningKeyRecord.create(algorithm, now=now, signs_from=now + ANNOUNCED if keys else now)
            gone = fresh.signs_from + token_life + _MARGIN
            keys = [replace(key, retires=gone) if key.retires is None else key for key in keys]
            made.append(fresh)
            content["keys"] = [asdict(key) for key in (*keys, fresh)]

        self._stored.change(change)
        return made[0]

    def advance(self, algorithm: str, *, now: float, key_life: float, token_life: float) -> bool:
        """Make the first key, or the next one when the newest is old, and drop those that have retired.

        Tells whether there was something to be done.
        """
        keys = self.all()
        if not keys or now - keys[-1].created >= key_life or keys[-1].algorithm != algorithm:
            self.rotate(algorithm, now=now, token_life=token_life)
            return True
        if all(key.retires is None or key.retires > now for key in keys):
            return False

        def change(content: dict[str, Any]) -> None:
            kept = [key for key in _read(content) if key.retires is None or key.retires > now]
            content["keys"] = [asdict(key) for key in kept]

        self._stored.change(change)
        return True


def _read(content: Any) -> tuple[SigningKeyRecord, ...]:
    facts: Sequence[dict[str, Any]] = content.get("keys", ())
    return tuple(SigningKeyRecord(**each) for each in facts)


def _public(key: PrivateKey) -> dict[str, str]:
    """The public part as a JSON Web Key: RFC 8037 for Ed25519, RFC 7518 for P-256."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return {"kty": "OKP", "crv": "Ed25519", "x": _text(key.public_key().public_bytes_raw())}
    numbers = key.public_key().public_numbers()
    return {
        "kty": "EC",
        "crv": "P-256",
        "x": _text(numbers.x.to_bytes(32)),
        "y": _text(numbers.y.to_bytes(32)),
    }


def _thumbprint(public: dict[str, str]) -> str:
    return _text(hashlib.sha256(json.dumps(public, separators=(",", ":"), sort_keys=True).encode()).digest())[:16]


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
