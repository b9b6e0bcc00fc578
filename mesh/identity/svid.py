"""A workload's certificate with its key, and the files in which others find it."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mesh.errors import InvalidInput, MeshError
from mesh.identity.files import make_private_dir, read_secret, write_file
from mesh.model import SpiffeId

_SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 (a type's name)


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
        except (ValueError, TypeError, IndexError, x509.ExtensionNotFound) as err:
            raise InvalidInput("The certificate, its key or its roots cannot be read.", field="svid") from err
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != leaf.public_key() or len(uris) != 1:
            raise InvalidInput("The key is not that of the certificate.", field="svid")
        if not any(leaf.issuer == root.subject for root in roots):
            raise InvalidInput("The certificate comes from none of the roots.", field="svid")
        begin, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
        return cls(
            SpiffeId.parse(uris[0]), certificate_chain, private_key, trust_bundle, end, begin + (end - begin) / 2
        )


def create_key() -> tuple[str, bytes]:
    """A new P-256 key (PEM) and a certificate request for it (PKCS #10, DER)."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem.decode(), create_csr(pem.decode())


def create_csr(private_key: str) -> bytes:
    """A certificate request (PKCS #10, DER) for a key."""
    key = serialization.load_pem_private_key(private_key.encode(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


def write_svid_files(directory: Path, svid: Svid) -> None:
    """Write svid.pem, key.pem, bundle.pem and Envoy's SDS files svid.json and bundle.json, each in one step.

    svid.json holds certificate and key together, so Envoy never sees one without the other. Raises FailedPrecondition
    when the folder cannot be written.
    """
    make_private_dir(directory)
    write_file(directory / "bundle.pem", svid.trust_bundle.encode(), mode=0o644)
    write_file(directory / "key.pem", svid.private_key.encode(), mode=0o600)
    write_file(directory / "svid.pem", svid.certificate_chain.encode(), mode=0o644)
    bundle = {"validation_context": {"trusted_ca": {"inline_string": svid.trust_bundle}}}
    certificate = {
        "tls_certificate": {
            "certificate_chain": {"inline_string": svid.certificate_chain},
            "private_key": {"inline_string": svid.private_key},
        }
    }
    write_file(directory / "bundle.json", _sds("bundle", bundle), mode=0o600)
    write_file(directory / "svid.json", _sds("svid", certificate), mode=0o600)


def read_svid_files(directory: Path) -> Svid | None:
    """The Svid that was written last; None when there is none or its parts do not fit together."""
    text = {name: read_secret(directory / name) for name in ("svid.pem", "key.pem")}
    bundle = directory / "bundle.pem"
    if None in text.values() or not bundle.exists():
        return None
    try:
        return Svid.from_pem((text["svid.pem"] or b"").decode(), (text["key.pem"] or b"").decode(), bundle.read_text())
    except (MeshError, OSError, UnicodeDecodeError):
        return None


def _sds(name: str, secret: dict[str, Any]) -> bytes:
    document = {"version_info": _now(), "resources": [{"@type": _SECRET, "name": name, **secret}]}
    return json.dumps(document).encode()


def _now() -> str:
    return datetime.now(UTC).isoformat()
