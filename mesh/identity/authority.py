"""The mesh's certificate authority: one P-256 root that signs short-lived workload certificates."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mesh.errors import FailedPrecondition, InvalidInput
from mesh.identity.files import make_private_dir, read_secret, write_file
from mesh.model import SpiffeId

WORKLOAD_LIFETIME = timedelta(hours=1)
ROOT_LIFETIME = timedelta(days=3650)
CLOCK_SKEW = timedelta(minutes=5)
"""Certificates begin this long ago, for machines whose clocks are behind."""

LARGEST_CSR = 8 << 10
FORMAT = "1"
"""Version of the authority's folder."""


def utc_now() -> datetime:
    """The time of day, with its zone."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class SignedCertificate:
    """A certificate that was signed. `chain_pem` is the leaf, `serial` is hexadecimal."""

    chain_pem: str
    serial: str
    issue_time: datetime
    expire_time: datetime
    renew_time: datetime
    spiffe_id: SpiffeId
    reason: str


class CertificateAuthority:
    """Signs certificates of one trust domain. Made by `open`."""

    def __init__(
        self,
        key: ec.EllipticCurvePrivateKey,
        root: x509.Certificate,
        *,
        trust_domain: str,
        clock: Callable[[], datetime],
    ) -> None:
        self._key = key
        self._root = root
        self._trust_domain = trust_domain
        self._clock = clock
        self._issued: list[SignedCertificate] = []

    @classmethod
    def open(cls, directory: Path, *, trust_domain: str, clock: Callable[[], datetime] = utc_now) -> Self:
        """Load root.key and root.pem from `directory`, or make both (0600 and 0644) when neither is there.

        Raises FailedPrecondition that names the file when one is missing, damaged, of another version or trust domain,
        or cannot be read or written.
        """
        make_private_dir(directory)
        _check_format(directory / "version")
        key_path, root_path = directory / "root.key", directory / "root.pem"
        key_pem = read_secret(key_path)
        if key_pem is None and not root_path.exists():
            _create_root(key_path, root_path, trust_domain, clock())
            key_pem = read_secret(key_path)
        key, root = _load_root(key_path, root_path, key_pem)
        if _trust_domain_of(root) != trust_domain:
            raise FailedPrecondition(
                f"The authority in {directory} is that of {_trust_domain_of(root)!r}, not of {trust_domain!r}.",
                field="MESH_TRUST_DOMAIN",
                fix="Set the trust domain back, or begin with another state directory.",
            )
        return cls(key, root, trust_domain=trust_domain, clock=clock)

    @property
    def trust_domain(self) -> str:
        """The trust domain whose certificates it signs."""
        return self._trust_domain

    @property
    def bundle_pem(self) -> str:
        """All roots that members shall trust."""
        return self._root.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the root's DER, hexadecimal."""
        return self._root.fingerprint(hashes.SHA256()).hex()

    def issued(self) -> tuple[SignedCertificate, ...]:
        """What this process has signed and has not ended."""
        now = self._clock()
        self._issued = [signed for signed in self._issued if signed.expire_time > now]
        return tuple(self._issued)

    def sign(
        self,
        csr_der: bytes,
        spiffe_id: SpiffeId,
        *,
        reason: str,
        lifetime: timedelta = WORKLOAD_LIFETIME,
        dns_names: tuple[str, ...] = (),
    ) -> SignedCertificate:
        """Sign the key of a PKCS #10 request; nothing else of the request is taken over.

        Raises InvalidInput unless it is a P-256 key that has signed the request.
        """
        key = _key_of_csr(csr_der)
        now = self._clock()
        expire_time = min(now + lifetime, self._root.not_valid_after_utc)
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(spiffe_id))]
        names += [x509.DNSName(name) for name in dns_names]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, spiffe_id.service)]))
            .issuer_name(self._root.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - CLOCK_SKEW)
            .not_valid_after(expire_time)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),
                critical=False,
            )
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        signed = SignedCertificate(
            chain_pem=certificate.public_bytes(serialization.Encoding.PEM).decode(),
            serial=f"{certificate.serial_number:x}",
            issue_time=now,
            expire_time=certificate.not_valid_after_utc,
            renew_time=now + (expire_time - now) / 2,
            spiffe_id=spiffe_id,
            reason=reason,
        )
        self._issued = [*self.issued(), signed]
        return signed


def key_digest(csr_der: bytes) -> bytes:
    """SHA-256 of the public key in a request; raises InvalidInput like `CertificateAuthority.sign`."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(
        _key_of_csr(csr_der).public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return digest.finalize()


def _key_of_csr(csr_der: bytes) -> ec.EllipticCurvePublicKey:
    fix = "Send a PKCS #10 request, DER, with a P-256 key."
    if len(csr_der) > LARGEST_CSR:
        raise InvalidInput(f"The request has more than {LARGEST_CSR} bytes.", field="csr", fix=fix)
    try:
        csr = x509.load_der_x509_csr(csr_der)
        key = csr.public_key()
        is_signed = csr.is_signature_valid
    except (ValueError, InvalidSignature, TypeError) as err:
        raise InvalidInput("The request cannot be read.", field="csr", fix=fix) from err
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidInput("The request's key is not a P-256 key.", field="csr", fix=fix)
    if not is_signed:
        raise InvalidInput("The request is not signed by its own key.", field="csr", fix=fix)
    return key


def _check_format(path: Path) -> None:
    known = read_secret(path)
    if known is None:
        write_file(path, FORMAT.encode(), mode=0o600)
    elif known.decode(errors="replace").strip() != FORMAT:
        raise FailedPrecondition(
            f"{path.parent} was written by another version of agentmesh.",
            field=str(path),
            fix="Use that version, or begin with another state directory.",
        )


def _create_root(key_path: Path, root_path: Path, trust_domain: str, now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "agentmesh"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{trust_domain} root"[:64]),
        ]
    )
    root = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + ROOT_LIFETIME)
        .add_extension(x509.SubjectAlternativeName([_domain_uri(trust_domain)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_file(key_path, pem, mode=0o600)
    write_file(root_path, root.public_bytes(serialization.Encoding.PEM), mode=0o644)


def _domain_uri(trust_domain: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")


def _load_root(
    key_path: Path, root_path: Path, key_pem: bytes | None
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    fix = "Restore it from a copy, or begin with another state directory; every member then has to join anew."
    if key_pem is None:
        raise FailedPrecondition(f"{key_path} is missing.", field=str(key_path), fix=fix)
    try:
        root = x509.load_pem_x509_certificate(root_path.read_bytes())
    except (OSError, ValueError) as err:
        raise FailedPrecondition(f"{root_path} is missing or damaged.", field=str(root_path), fix=fix) from err
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError) as err:
        raise FailedPrecondition(f"{key_path} is damaged.", field=str(key_path), fix=fix) from err
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != root.public_key():
        raise FailedPrecondition(f"{key_path} is not the key of {root_path}.", field=str(key_path), fix=fix)
    return key, root


def _trust_domain_of(root: x509.Certificate) -> str:
    try:
        names = root.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return uris[0].removeprefix("spiffe://") if uris else ""


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
