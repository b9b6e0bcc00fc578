"""A workload's certificate with its key, and the files in which others find it."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mesh.errors import InvalidInput
from mesh.identity.authority import CLOCK_SKEW
from mesh.identity.x509_errors import UNREADABLE
from mesh.model import SpiffeId
from mesh.runtime.private_files import hold_private_dir, read_secret, write_file
from mesh.telemetry import get_logger

_SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 (a type's name)
_FILES = ("svid.json", "bundle.json", "svid.pem", "key.pem", "bundle.pem")

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Svid:
    """An X.509-SVID: certificate (PEM, leaf first), its private key (PEM) and the roots that it trusts (PEM)."""

    spiffe_id: SpiffeId
    certificate_chain: str
    private_key: str = field(repr=False)
    trust_bundle: str
    expire_time: datetime
    renew_time: datetime

    @classmethod
    def from_pem(cls, certificate_chain: str, private_key: str, trust_bundle: str) -> Self:
        """Read identity and times out of the certificate; raises InvalidInput when the parts do not fit together."""
        try:
            leaf = x509.load_pem_x509_certificates(certificate_chain.encode())[0]
            key = serialization.load_pem_private_key(private_key.encode(), password=None)
            roots = x509.load_pem_x509_certificates(trust_bundle.encode())
            names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            uris = names.get_values_for_type(x509.UniformResourceIdentifier)
            is_of_key = isinstance(key, ec.EllipticCurvePrivateKey) and key.public_key() == leaf.public_key()
        except UNREADABLE as err:
            raise InvalidInput("The certificate, its key or its roots cannot be read.", field="svid") from err
        if not is_of_key or len(uris) != 1:
            raise InvalidInput("The key is not that of the certificate.", field="svid")
        if not any(_is_signed_by(leaf, root) for root in roots):
            raise InvalidInput("The certificate comes from none of the roots.", field="svid")
        begin, end = leaf.not_valid_before_utc + CLOCK_SKEW, leaf.not_valid_after_utc
        renew_time = begin + (end - begin) / 2
        return cls(SpiffeId.parse(uris[0]), certificate_chain, private_key, trust_bundle, end, renew_time)

    @property
    def issue_time(self) -> datetime:
        """When the certificate was made; it is renewed half way between that and its end."""
        return self.renew_time - (self.expire_time - self.renew_time)

    def is_valid_at(self, now: datetime) -> bool:
        """False before its life begins, as a clock that was set back has it, and when it has ended."""
        return self.issue_time - CLOCK_SKEW <= now < self.expire_time


def create_key() -> tuple[str, bytes]:
    """A new P-256 key (PEM) and a certificate request for it (PKCS #10, DER)."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem.decode(), create_csr(pem.decode())


def create_csr(private_key: str) -> bytes:
    """A certificate request (PKCS #10, DER) for a key; raises InvalidInput when the key cannot be read."""
    try:
        key = serialization.load_pem_private_key(private_key.encode(), password=None)
    except UNREADABLE as err:
        raise InvalidInput("The key cannot be read.", field="private_key") from err
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InvalidInput("The key is not a P-256 key.", field="private_key")
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


def write_svid_files(directory: Path, svid: Svid) -> None:
    """Write Envoy's SDS files svid.json and bundle.json, then svid.pem, key.pem and bundle.pem, each in one step.

    svid.json holds certificate and key together: Envoy never sees one without the other, and a crash before the last
    file leaves one that is whole. Raises FailedPrecondition when the folder cannot be written.
    """
    bundle = {"validation_context": {"trusted_ca": {"inline_string": svid.trust_bundle}}}
    certificate = {
        "tls_certificate": {
            "certificate_chain": {"inline_string": svid.certificate_chain},
            "private_key": {"inline_string": svid.private_key},
        }
    }
    with hold_private_dir(directory):
        write_file(directory / "bundle.json", _sds("bundle", bundle), mode=0o600)
        write_file(directory / "svid.json", _sds("svid", certificate), mode=0o600)
        write_file(directory / "bundle.pem", svid.trust_bundle.encode(), mode=0o600)
        write_file(directory / "key.pem", svid.private_key.encode(), mode=0o600)
        write_file(directory / "svid.pem", svid.certificate_chain.encode(), mode=0o600)


def read_svid_files(directory: Path) -> Svid | None:
    """The Svid that was written last; None when there is none, or no files that fit together.

    Raises FailedPrecondition when a file cannot be read.
    """
    found = {name: read_secret(directory / name) for name in _FILES}
    svid = _from_sds(found["svid.json"], found["bundle.json"]) or _from_texts(
        found["svid.pem"], found["key.pem"], found["bundle.pem"]
    )
    if svid is None and any(content is not None for content in found.values()):
        _log.warning("identity_files_unusable", path=str(directory))
    return svid


def _from_sds(svid_json: bytes | None, bundle_json: bytes | None) -> Svid | None:
    try:
        certificate = json.loads(svid_json or b"")["resources"][0]["tls_certificate"]
        bundle = json.loads(bundle_json or b"")["resources"][0]["validation_context"]
        parts = (certificate["certificate_chain"], certificate["private_key"], bundle["trusted_ca"])
        chain, key, roots = (part["inline_string"].encode() for part in parts)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return _from_texts(chain, key, roots)


def _from_texts(chain: bytes | None, key: bytes | None, roots: bytes | None) -> Svid | None:
    if chain is None or key is None or roots is None:
        return None
    try:
        return Svid.from_pem(chain.decode(), key.decode(), roots.decode())
    except (InvalidInput, UnicodeDecodeError):
        return None


def _is_signed_by(leaf: x509.Certificate, root: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(root)
    except UNREADABLE:
        return False
    return True


def _sds(name: str, secret: dict[str, Any]) -> bytes:
    document = {"version_info": _now(), "resources": [{"@type": _SECRET, "name": name, **secret}]}
    return json.dumps(document).encode()


def _now() -> str:
    return datetime.now(UTC).isoformat()
