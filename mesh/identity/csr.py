"""Certificate requests as they come in: read with suspicion, and used for nothing but their key."""

from collections.abc import Collection
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mesh.errors import InvalidInput
from mesh.identity.x509_errors import UNREADABLE
from mesh.model import SpiffeId

LARGEST_CSR = 8 << 10

_FIX = "Send a PKCS #10 request, DER, with a P-256 key."
_LONGEST_SHOWN = 80


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """The key that a request is for, and the subject alternative names that it asks for."""

    key: ec.EllipticCurvePublicKey
    names: tuple[x509.GeneralName, ...]

    @property
    def key_digest(self) -> bytes:
        """SHA-256 of the public key."""
        digest = hashes.Hash(hashes.SHA256())
        digest.update(
            self.key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        return digest.finalize()


def read_csr(csr_der: bytes) -> CertificateRequest:
    """Read a PKCS #10 request; raises InvalidInput unless a P-256 key has signed it."""
    if len(csr_der) > LARGEST_CSR:
        raise _refused(f"The request has more than {LARGEST_CSR} bytes.")
    try:
        csr = x509.load_der_x509_csr(csr_der)
        key = csr.public_key()
    except UnsupportedAlgorithm as err:
        raise _refused("The request's key is not a P-256 key.") from err
    except UNREADABLE as err:
        raise _refused("The request cannot be read.") from err
    # Before the signature: checking that of a huge RSA key is work that a stranger could ask for.
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _refused("The request's key is not a P-256 key.")
    try:
        is_signed = csr.is_signature_valid
    except UNREADABLE:
        is_signed = False
    if not is_signed:
        raise _refused("The request is not signed by its own key.")
    return CertificateRequest(key, _names_of(csr))


def check_names(request: CertificateRequest, spiffe_id: SpiffeId, dns_names: Collection[str] = ()) -> None:
    """Raise InvalidInput when a request asks for a name that its certificate will not carry.

    The names in a certificate never come from the request. One that asks for others is refused all the same: it would
    get a certificate that does not do what its maker wants, or its maker wants to be somebody else.
    """
    for name in request.names:
        is_granted = (isinstance(name, x509.UniformResourceIdentifier) and name.value == str(spiffe_id)) or (
            isinstance(name, x509.DNSName) and name.value in dns_names
        )
        if not is_granted:
            raise InvalidInput(
                f"The request asks for the name {str(name.value)[:_LONGEST_SHOWN]!r}, the certificate is for"
                f" {spiffe_id}.",
                reason="CSR_NAME_REFUSED",
                field="csr",
                fix="Send a request without subject alternative names.",
            )


def _names_of(csr: x509.CertificateSigningRequest) -> tuple[x509.GeneralName, ...]:
    try:
        return tuple(csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return ()
    except UNREADABLE as err:
        raise _refused("The extensions of the request cannot be read.") from err


def _refused(summary: str) -> InvalidInput:
    return InvalidInput(summary, field="csr", fix=_FIX)
