"""On whose behalf a call is made: a JWT that gateways sign with their own certificate's key.

    gateway:  UserTokenSigner ──x-mesh-user──> service: UserTokenVerifier ──> claims

The header "x5c" (RFC 7515, 4.1.6) carries the certificate of the gateway, which leads to the roots of the mesh: nobody
has to be told any key.
"""

import base64
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mesh.errors import FailedPrecondition, InvalidInput, Unauthenticated
from mesh.identity.svid import read_svid_files
from mesh.identity.x509_errors import UNREADABLE
from mesh.model import SpiffeId
from mesh.rpc.context import USER_TOKEN

HEADER = USER_TOKEN
LIFETIME = 60.0
"""Seconds that a token lives."""

_REUSED = 30.0
_SKEW = 5.0
_MOST_KEPT = 10_000
_NAMELESS: tuple[type[Exception], ...] = (*UNREADABLE, InvalidInput)
_UNREADABLE_FILE: tuple[type[Exception], ...] = (OSError, *UNREADABLE)
_NO_TOKEN: tuple[type[Exception], ...] = (*UNREADABLE, jwt.PyJWTError, KeyError, IndexError)
_LONGEST = 16 << 10
_ALGORITHM = "ES256"


@dataclass(frozen=True, slots=True)
class _Signing:
    key: ec.EllipticCurvePrivateKey
    chain: tuple[str, ...]
    issuer: SpiffeId


class UserTokenSigner:
    """Signs with the key in a folder of SDS files, and with the next one after a renewal."""

    def __init__(self, secrets_dir: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._secrets_dir = secrets_dir
        self._clock = clock
        self._stamp: tuple[int, int] | None = None
        self._signing: _Signing | None = None
        self._looked = 0.0
        self._made: OrderedDict[object, tuple[str, float]] = OrderedDict()

    def sign(self, key: object, claims: Mapping[str, Any]) -> str:
        """A token with these claims. The one for the same `key` is used again for half of its life.

        Raises FailedPrecondition when there is no certificate.
        """
        now = self._clock()
        made = self._made.get(key)
        if made is not None and now < made[1]:
            return made[0]
        signing = self._current(now)
        facts = {
            **claims,
            "iss": str(signing.issuer),
            "aud": f"spiffe://{signing.issuer.trust_domain}",
            "iat": int(now),
            "exp": int(now + LIFETIME),
        }
        token = jwt.encode(facts, signing.key, algorithm=_ALGORITHM, headers={"x5c": list(signing.chain)})
        self._made[key] = (token, now + _REUSED)
        self._made.move_to_end(key)
        if len(self._made) > _MOST_KEPT:
            self._made.popitem(last=False)
        return token

    def _current(self, now: float) -> _Signing:
        stamp = self._read_stamp()
        if self._signing is not None and stamp == self._stamp:
            return self._signing
        svid = read_svid_files(self._secrets_dir)
        if svid is None:
            raise FailedPrecondition(
                f"There is no certificate in {self._secrets_dir}.",
                field="MESH_SECRETS_DIR",
                fix="Start it with meshctl.",
            )
        key = serialization.load_pem_private_key(svid.private_key.encode(), password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        chain = x509.load_pem_x509_certificates(svid.certificate_chain.encode())
        texts = tuple(base64.b64encode(each.public_bytes(serialization.Encoding.DER)).decode() for each in chain)
        self._made.clear()
        self._signing, self._stamp = _Signing(key, texts, svid.spiffe_id), stamp
        return self._signing

    def _read_stamp(self) -> tuple[int, int] | None:
        try:
            status = (self._secrets_dir / "svid.json").stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino


class UserTokenVerifier:
    """Verifies what gateways of a trust domain have signed. Remembers what it has verified until it ends."""

    def __init__(
        self,
        bundle: Path,
        trust_domain: str,
        *,
        gateways: Collection[str] = ("gateway",),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._bundle = bundle
        self._trust_domain = trust_domain
        self._gateways = frozenset(gateways)
        self._clock = clock
        self._known: OrderedDict[str, Mapping[str, Any]] = OrderedDict()

    def verify(self, token: str) -> Mapping[str, Any]:
        """The claims of a token.

        Raises Unauthenticated, which says why, when it does not hold; FailedPrecondition when the roots of the mesh
        cannot be read.
        """
        now = self._clock()
        claims = self._known.get(token)
        if claims is None:
            claims = self._verify(token)
            self._known[token] = claims
            if len(self._known) > _MOST_KEPT:
                self._known.popitem(last=False)
        if now >= claims["exp"] + _SKEW:
            self._known.pop(token, None)
            raise _refused("it has ended")
        return claims

    def _verify(self, token: str) -> Mapping[str, Any]:
        if len(token) > _LONGEST:
            raise _refused("it is too long")
        try:
            header = jwt.get_unverified_header(token)
            leaf = x509.load_der_x509_certificate(base64.b64decode(header["x5c"][0], validate=True))
        except _NO_TOKEN as err:
            raise _refused("it cannot be read") from err
        issuer = self._check_leaf(leaf)
        key = leaf.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise _refused("its key is of another kind")
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[_ALGORITHM],
                audience=f"spiffe://{self._trust_domain}",
                issuer=str(issuer),
                # Its end is looked at each time, by the clock that was given.
                options={"require": ["exp", "iat", "iss", "aud", "sub"], "verify_exp": False, "verify_iat": False},
            )
        except jwt.PyJWTError as err:
            raise _refused(str(err)) from err
        if not isinstance(claims["exp"], int) or claims["exp"] > self._clock() + LIFETIME + _SKEW:
            raise _refused("it lives too long")
        return claims

    def _check_leaf(self, leaf: x509.Certificate) -> SpiffeId:
        if not any(_is_issued_by(leaf, root) for root in self._read_roots()):
            raise _refused("its certificate comes from none of the mesh's roots")
        seconds = self._clock()
        if not leaf.not_valid_before_utc.timestamp() - _SKEW <= seconds < leaf.not_valid_after_utc.timestamp():
            raise _refused("its certificate has ended")
        try:
            names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
            identity = SpiffeId.parse(uri)
        except _NAMELESS as err:
            raise _refused("its certificate has no identity") from err
        if identity.trust_domain != self._trust_domain or identity.service not in self._gateways:
            raise _refused(f"{identity} is no gateway of this mesh")
        return identity

    def _read_roots(self) -> list[x509.Certificate]:
        try:
            # Public, and often another's or on a disk that is only read: its mode is none of our business.
            return x509.load_pem_x509_certificates(self._bundle.read_bytes())
        except FileNotFoundError:
            return []
        except _UNREADABLE_FILE as err:
            raise FailedPrecondition(
                f"The roots of the mesh in {self._bundle} cannot be read.",
                field=str(self._bundle),
                fix="Restore the file, or restart the sidecar, which writes it.",
            ) from err


def _is_issued_by(leaf: x509.Certificate, root: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(root)
    except UNREADABLE:
        return False
    return True


def _refused(why: str) -> Unauthenticated:
    return Unauthenticated(
        f"The user token does not hold: {why}.",
        reason="USER_TOKEN_INVALID",
        field=HEADER,
        fix="Pass it on as it came, or call without it.",
    )
