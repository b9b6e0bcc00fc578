"""The mesh's certificate authority: a P-256 root that signs short-lived workload certificates, and its successor."""

import ipaddress
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mesh.errors import InvalidInput
from mesh.identity.csr import check_names, read_csr
from mesh.identity.revocations import Revocations
from mesh.identity.root import build_key_usage, check_clock, utc_now
from mesh.identity.roots import RENEW_BEFORE_END, Root, RootFolder, Roots, Stage
from mesh.model import SpiffeId

WORKLOAD_LIFETIME = timedelta(hours=1)
CLOCK_SKEW = timedelta(minutes=5)
"""Certificates begin this long ago, for machines whose clocks are behind."""

MOST_REMEMBERED = 10_000
"""Certificates that `CertificateAuthority.issued` tells of at most."""


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
    """Signs certificates of one trust domain. Made by `open`. May be used by several threads."""

    def __init__(
        self,
        folder: RootFolder,
        revocations: Revocations,
        *,
        trust_domain: str,
        clock: Callable[[], datetime],
    ) -> None:
        self._folder = folder
        self._roots = folder.open(clock())
        self._revocations = revocations
        self._trust_domain = trust_domain
        self._clock = clock
        self._issued: list[SignedCertificate] = []
        self._lock = threading.Lock()

    @classmethod
    def open(cls, directory: Path, *, trust_domain: str, clock: Callable[[], datetime] = utc_now) -> Self:
        """Load root.key and root.pem from `directory`, or make both (0600) when neither is there.

        Raises FailedPrecondition that names the file when one is missing, damaged, of another version or trust domain,
        or cannot be read or written, and when the clock is outside of the root's life. Raises InvalidInput for a trust
        domain that is none.
        """
        _check_trust_domain(trust_domain)
        folder = RootFolder(directory, trust_domain)
        authority = cls(folder, Revocations(directory), trust_domain=trust_domain, clock=clock)
        check_clock(authority.roots.signer.certificate, clock())
        return authority

    @property
    def trust_domain(self) -> str:
        """The trust domain whose certificates it signs."""
        return self._trust_domain

    @property
    def bundle_pem(self) -> str:
        """All roots that members shall trust."""
        return self._roots.bundle_pem

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the DER of the root on which join tokens rely, hexadecimal."""
        return self._roots.anchor.fingerprint

    @property
    def roots(self) -> Roots:
        """The roots at this moment."""
        return self._roots

    @property
    def revocations(self) -> Revocations:
        """Whose certificates count no more."""
        return self._revocations

    def reload(self) -> None:
        """Take what another process on the same folder has changed; raises FailedPrecondition when it is damaged."""
        roots = self._folder.reload()
        if roots is not None:
            self._roots = roots
        self._revocations.reload()

    def start_rotation(self) -> Roots:
        """Begin to replace the root; raises FailedPrecondition when that is under way. Writes files."""
        self._roots = self._folder.start(self._roots, self._clock())
        return self._roots

    def advance_rotation(self, lifetime: timedelta) -> Roots:
        """Go on when the stage of a rotation has lasted; begin one by itself a year before the root ends. Writes files.

        `lifetime` is the longest one of a certificate that this authority signs.
        """
        now = self._clock()
        ends = self._roots.signer.certificate.not_valid_after_utc
        if self._roots.stage is Stage.STEADY and ends - now < RENEW_BEFORE_END:
            return self.start_rotation()
        self._roots = self._folder.advance(self._roots, now, lifetime)
        return self._roots

    def now(self) -> datetime:
        """The time on the authority's clock."""
        return self._clock()

    def issued(self) -> tuple[SignedCertificate, ...]:
        """What this process has signed and has not ended, at most the newest MOST_REMEMBERED."""
        with self._lock:
            return tuple(self._drop_ended())

    def sign(
        self,
        csr_der: bytes,
        spiffe_id: SpiffeId,
        *,
        reason: str,
        lifetime: timedelta = WORKLOAD_LIFETIME,
        dns_names: tuple[str, ...] = (),
        is_anchored: bool = False,
    ) -> SignedCertificate:
        """Sign the key of a PKCS #10 request; nothing else of the request is taken over.

        `dns_names` are names and IP addresses of hosts. With `is_anchored` it is signed by the root on which join
        tokens rely. Raises InvalidInput unless it is a P-256 key that has signed the request, and the request asks for
        no names other than those that the certificate gets. Raises FailedPrecondition when the root has ended,
        PermissionDenied when the identity was revoked.
        """
        if spiffe_id.trust_domain != self._trust_domain:
            raise InvalidInput(f"{spiffe_id} is not of the trust domain {self._trust_domain}.", field="spiffe_id")
        request = read_csr(csr_der)
        check_names(request, spiffe_id, dns_names)
        self._revocations.check(spiffe_id.service)
        now = self._clock()
        root = self._roots.anchor if is_anchored else self._roots.signer
        check_clock(root.certificate, now)
        certificate = _build(root, request.key, spiffe_id, dns_names, (now, now + lifetime))
        expire_time = certificate.not_valid_after_utc
        signed = SignedCertificate(
            chain_pem=certificate.public_bytes(serialization.Encoding.PEM).decode(),
            serial=f"{certificate.serial_number:x}",
            issue_time=now,
            expire_time=expire_time,
            renew_time=now + (expire_time - now) / 2,
            spiffe_id=spiffe_id,
            reason=reason,
        )
        with self._lock:
            self._issued = [*self._drop_ended(), signed][-MOST_REMEMBERED:]
        return signed

    def _drop_ended(self) -> list[SignedCertificate]:
        now = self._clock()
        self._issued = [signed for signed in self._issued if signed.expire_time > now]
        return self._issued


def _build(
    root: Root,
    key: ec.EllipticCurvePublicKey,
    spiffe_id: SpiffeId,
    dns_names: tuple[str, ...],
    valid: tuple[datetime, datetime],
) -> x509.Certificate:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(spiffe_id))]
    names += map(_host_name, dns_names)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, spiffe_id.service)]))
        .issuer_name(root.certificate.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(valid[0] - CLOCK_SKEW)
        .not_valid_after(min(valid[1], root.certificate.not_valid_after_utc))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(build_key_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),
            critical=False,
        )
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root.key.public_key()), critical=False)
        .sign(root.key, hashes.SHA256())
    )


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _check_trust_domain(trust_domain: str) -> None:
    try:
        SpiffeId.parse(f"spiffe://{trust_domain}/ns/default/svc/any")
    except InvalidInput as err:
        raise InvalidInput(
            f"{trust_domain!r} is not a trust domain.",
            field="MESH_TRUST_DOMAIN",
            fix="Use lower-case letters, digits, dots, dashes and underscores.",
        ) from err
