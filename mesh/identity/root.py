"""The root of the mesh's authority: its key and certificate, and the folder that they are kept in."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mesh.errors import FailedPrecondition
from mesh.identity.x509_errors import UNREADABLE
from mesh.runtime.private_files import hold_private_dir, read_secret, write_file
from mesh.telemetry import get_logger

ROOT_LIFETIME = timedelta(days=3650)
ROOT_SKEW = timedelta(days=1)
"""The root begins this long ago: a clock that is set back must not make it invalid."""

FORMAT = "1"
"""Version of the authority's folder."""

ROTATED_FORMAT = "2"
"""Version of a folder whose root has been replaced: who knows nothing of that would make a third one."""

_RESTORE = "Restore it from a copy, or begin with another state directory; every member then has to join anew."
_REMAKE = "Restore it from a copy, or remove it: it is then made anew from root.key."

_log = get_logger(__name__)


def utc_now() -> datetime:
    """The time of day, with its zone."""
    return datetime.now(UTC)


def open_root(
    directory: Path, *, trust_domain: str, now: datetime
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """Load root.key and root.pem, or make both when neither is there; several processes may do so at once.

    A key without its certificate is what a crash in between leaves: the certificate is then made anew, and members that
    have the earlier one go on trusting the key. Raises FailedPrecondition that names the file at fault.
    """
    with hold_private_dir(directory):
        check_format(directory)
        key_path, root_path = directory / "root.key", directory / "root.pem"
        key_pem, root_pem = read_secret(key_path), read_secret(root_path)
        if key_pem is None and root_pem is not None:
            raise FailedPrecondition(f"{key_path} is missing.", field=str(key_path), fix=_RESTORE)
        if key_pem is None:
            key = ec.generate_private_key(ec.SECP256R1())
            write_file(key_path, key_to_pem(key), mode=0o600)
        else:
            key = parse_key(key_path, key_pem)
        if root_pem is None:
            if key_pem is not None:
                _log.warning("authority_root_made_anew", path=str(root_path))
            root = build_root(key, trust_domain, now)
            write_file(root_path, root.public_bytes(serialization.Encoding.PEM), mode=0o600)
        else:
            root = parse_root(root_path, root_pem, key, trust_domain=trust_domain)
    return key, root


def check_clock(root: x509.Certificate, now: datetime) -> None:
    """Raise FailedPrecondition when the root is not valid at `now`: nobody would trust what it signs."""
    if not root.not_valid_before_utc <= now < root.not_valid_after_utc:
        raise FailedPrecondition(
            f"It is {now.isoformat(timespec='seconds')}, and the authority's root is valid from"
            f" {root.not_valid_before_utc.isoformat()} to {root.not_valid_after_utc.isoformat()}.",
            reason="ROOT_NOT_VALID",
            field="root.pem",
            fix="Set the clock. If it is right, begin with another state directory; every member has to join anew.",
        )


def build_key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """What the key of an authority, or that of a workload, is for."""
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


def check_format(directory: Path) -> None:
    """Raise FailedPrecondition unless the folder, which the caller holds, is of a version that is known here."""
    path = directory / "version"
    known = read_secret(path)
    if known is None:
        write_file(path, FORMAT.encode(), mode=0o600)
    elif known.strip().decode(errors="replace") not in (FORMAT, ROTATED_FORMAT):
        raise FailedPrecondition(
            f"{directory} was written by another version of agentmesh: {path.name} is above {ROTATED_FORMAT}.",
            field=str(path),
            fix="Use that version, or begin with another state directory.",
        )


def set_format(directory: Path, version: str) -> None:
    """Write down the version of the authority's folder, which the caller holds."""
    path = directory / "version"
    if read_secret(path) != version.encode():
        write_file(path, version.encode(), mode=0o600)


def build_root(
    key: ec.EllipticCurvePrivateKey, trust_domain: str, now: datetime, *, is_first: bool = True
) -> x509.Certificate:
    """A certificate of a key by itself. Later roots have names of their own: who verifies must tell them apart."""
    serial = x509.random_serial_number()
    title = f"{trust_domain} root"[:64] if is_first else f"root {serial:x}"[:13] + f" of {trust_domain}"[:51]
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "agentmesh"),
            x509.NameAttribute(NameOID.COMMON_NAME, title),
        ]
    )
    domain = x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - ROOT_SKEW)
        .not_valid_after(now + ROOT_LIFETIME)
        .add_extension(x509.SubjectAlternativeName([domain]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(build_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def key_to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The key as it is kept."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def parse_key(path: Path, pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Read the key of a root; raises FailedPrecondition that names the file."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except UNREADABLE as err:
        raise FailedPrecondition(f"{path} is damaged.", field=str(path), fix=_RESTORE) from err
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise FailedPrecondition(f"{path} is not a P-256 key.", field=str(path), fix=_RESTORE)
    return key


def parse_root(path: Path, pem: bytes, key: ec.EllipticCurvePrivateKey, *, trust_domain: str) -> x509.Certificate:
    """Read the certificate of a root's key; raises FailedPrecondition that names the file or the trust domain."""
    try:
        root = x509.load_pem_x509_certificate(pem)
        is_of_key = root.public_key() == key.public_key()
        root.verify_directly_issued_by(root)
        is_authority = bool(root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except UNREADABLE as err:
        raise FailedPrecondition(f"{path} is damaged.", field=str(path), fix=_REMAKE) from err
    if not is_of_key or not is_authority:
        raise FailedPrecondition(f"{path} is not the root of {path.with_suffix('.key')}.", field=str(path), fix=_REMAKE)
    found = _trust_domain_of(root)
    if found != trust_domain:
        raise FailedPrecondition(
            f"The authority in {path.parent} is that of {found!r}, not of {trust_domain!r}.",
            field="MESH_TRUST_DOMAIN",
            fix="Set the trust domain back, or begin with another state directory.",
        )
    return root


def _trust_domain_of(root: x509.Certificate) -> str:
    try:
        names = root.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return uris[0].removeprefix("spiffe://") if uris else ""
