"""Signatures of cards: JWS over the canonical card (RFC 7515, RFC 8785), as section 8.4 of A2A wants them.

The keys follow from the secrets that all gateways of the mesh share, so every gateway signs with the same one, and
those before it still verify what clients have kept.
"""

import base64
import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from a2a.types import a2a_pb2 as a2a
from a2a.utils.signing import ProtectedHeader, create_agent_card_signer
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from services.gateway.web.a2a.routes import KEYS_PATH

_ALGORITHM = "ES256"
_PURPOSE = b"agentmesh a2a card signature"
# Of P-256, FIPS 186-5.
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


class CardSigner:
    """`secrets` are those that the gateways share, newest first."""

    def __init__(self, secrets: Callable[[], Sequence[bytes]]) -> None:
        self._secrets = secrets

    def sign(self, card: a2a.AgentCard, base_url: str) -> a2a.AgentCard:
        """Add a signature whose header tells where the key is; nothing before there is one."""
        secrets = self._secrets()
        if not secrets:
            return card
        key = _private_key(bytes(secrets[0]))
        header: ProtectedHeader = {
            "alg": _ALGORITHM,
            "typ": "JOSE",
            "kid": _jwk(key)["kid"],
            "jku": f"{base_url}{KEYS_PATH}",
        }
        return create_agent_card_signer(_pem(key), header)(card)

    def key_set(self) -> dict[str, Any]:
        """A JSON Web Key Set (RFC 7517) of the public keys."""
        return {"keys": [_jwk(_private_key(bytes(secret))) for secret in self._secrets()]}


@lru_cache(maxsize=8)
def _private_key(secret: bytes) -> ec.EllipticCurvePrivateKey:
    # 16 bytes more than the order has: then no number is more likely than another (FIPS 186-5, A.2.1).
    derived = HKDF(hashes.SHA256(), 48, None, _PURPOSE).derive(secret)
    return ec.derive_private_key(int.from_bytes(derived) % (_ORDER - 1) + 1, ec.SECP256R1())


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _jwk(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    """The public key; its id is its thumbprint (RFC 7638)."""
    numbers = key.public_key().public_numbers()
    x, y = (_encode(number.to_bytes(32)) for number in (numbers.x, numbers.y))
    text = f'{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}'
    kid = _encode(hashlib.sha256(text.encode()).digest())
    return {"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": kid, "use": "sig", "alg": _ALGORITHM}


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
