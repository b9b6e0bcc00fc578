"""The certificate that the edge shows to clients outside of the mesh: files of an operator's, or one of its own.

    certificate and key given ──> read again when they change ─┐
    none given ──> edge/ca.pem signs one for localhost ────────┴──> edge.json, which Envoy watches

What is made here is for development: clients must be told to trust edge/ca.pem.
"""

import asyncio
import ipaddress
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mesh.errors import FailedPrecondition, InvalidInput, MeshError
from mesh.identity.x509_errors import UNREADABLE
from mesh.runtime import open_background
from mesh.runtime.private_files import hold_private_dir, read_secret, write_file
from mesh.telemetry import get_logger

_SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 (a type's name)
_LOOK_SECONDS = 1.0
_CA_LIFE = timedelta(days=3650)
_LIFE = timedelta(days=90)
_SKEW = timedelta(minutes=5)

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EdgeCertificate:
    """Where the certificate chain and its key (PEM) are; with neither, one is made in `own_dir` for `hosts`."""

    own_dir: Path
    certificate: Path | None = None
    key: Path | None = None
    hosts: tuple[str, ...] = ()

    @property
    def authority(self) -> Path:
        """The certificate of the own authority, which clients are to trust."""
        return self.own_dir / "ca.pem"


@asynccontextmanager
async def open_edge_certificate(source: EdgeCertificate, secrets_dir: Path) -> AsyncIterator[None]:
    """Write edge.json into `secrets_dir`, and again whenever the certificate changes, while the block runs.

    Raises InvalidInput when the given files do not fit together, FailedPrecondition when one cannot be read.
    """
    seen = await asyncio.to_thread(_write, source, secrets_dir, None)
    async with open_background(_follow(source, secrets_dir, seen)):
        yield


async def _follow(source: EdgeCertificate, secrets_dir: Path, seen: bytes) -> None:
    said = ""
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        try:
            shown = await asyncio.to_thread(_write, source, secrets_dir, seen)
        except MeshError as err:
            # The old one stays: files are often written one after the other.
            if str(err) != said:
                said = str(err)
                _log.warning("edge_certificate_unusable", error=said, reason=err.reason)
            continue
        if shown != seen:
            _log.info("edge_certificate_changed")
        seen, said = shown, ""


def _write(source: EdgeCertificate, secrets_dir: Path, seen: bytes | None) -> bytes:
    """Write what is to be shown unless it was seen already; gives it back."""
    if source.certificate is not None and source.key is not None:
        chain, key = _read(source.certificate), _read(source.key)
        _check_pair(chain, key, str(source.certificate))
    else:
        chain, key = _own_certificate(source.own_dir, source.hosts)
    content = chain + key
    if content != seen:
        certificate = {
            "certificate_chain": {"inline_string": chain.decode()},
            "private_key": {"inline_string": key.decode()},
        }
        resource = {"@type": _SECRET, "name": "edge", "tls_certificate": certificate}
        document = {"version_info": datetime.now(UTC).isoformat(), "resources": [resource]}
        write_file(secrets_dir / "edge.json", json.dumps(document).encode(), mode=0o600)
    return content


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as err:
        raise FailedPrecondition(
            f"{path} cannot be read: {err.strerror or err}.", field=str(path), fix="Correct the path or its rights."
        ) from err


def _check_pair(chain: bytes, key: bytes, field: str) -> None:
    try:
        fits = _fit(x509.load_pem_x509_certificates(chain)[0], key)
        # Between the blocks of PEM may stand anything, but Envoy gets them inside JSON.
        _ = chain.decode(), key.decode()
    except UNREADABLE as err:
        raise InvalidInput(
            "The certificate or its key cannot be read.", field=field, fix="Give PEM, the key without a password."
        ) from err
    if not fits:
        raise InvalidInput("The key is not that of the certificate.", field=field, fix="Give the files of one pair.")


def _own_certificate(directory: Path, hosts: tuple[str, ...]) -> tuple[bytes, bytes]:
    """The own certificate and its key, made anew when half of its life is over or it is for other hosts."""
    now = datetime.now(UTC)
    with hold_private_dir(directory):
        authority, authority_key = _own_authority(directory, now)
        found = read_secret(directory / "edge.pem"), read_secret(directory / "edge-key.pem")
        if found[0] is not None and found[1] is not None and _is_good((found[0], found[1]), authority, hosts, now):
            return found[0], found[1]
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = (
            _builder("agentmesh edge", authority.subject, key, now, _LIFE)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([_name(host) for host in hosts]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .sign(authority_key, hashes.SHA256())
        )
        chain, pem = leaf.public_bytes(serialization.Encoding.PEM), _key_pem(key)
        write_file(directory / "edge-key.pem", pem, mode=0o600)
        write_file(directory / "edge.pem", chain, mode=0o600)
        return chain, pem


def _own_authority(directory: Path, now: datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    found = read_secret(directory / "ca.pem"), read_secret(directory / "ca-key.pem")
    if found[0] is not None and found[1] is not None:
        try:
            known = x509.load_pem_x509_certificate(found[0])
            known_key = serialization.load_pem_private_key(found[1], password=None)
            fits = known_key.public_key() == known.public_key()
        except UNREADABLE as err:
            raise FailedPrecondition(
                f"The edge's own authority in {directory} is damaged.",
                field=str(directory),
                fix="Remove the folder; clients must then trust a new one.",
            ) from err
        is_long = now < known.not_valid_after_utc - _LIFE
        # They do not fit when their writer was killed between the two.
        if fits and is_long and isinstance(known_key, ec.EllipticCurvePrivateKey):
            return known, known_key
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "agentmesh edge (development)")])
    made = (
        _builder("agentmesh edge (development)", name, key, now, _CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    write_file(directory / "ca-key.pem", _key_pem(key), mode=0o600)
    write_file(directory / "ca.pem", made.public_bytes(serialization.Encoding.PEM), mode=0o600)
    return made, key


def _builder(
    name: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + life)
    )


def _fit(leaf: x509.Certificate, key: bytes) -> bool:
    return serialization.load_pem_private_key(key, password=None).public_key() == leaf.public_key()


def _is_good(pair: tuple[bytes, bytes], authority: x509.Certificate, hosts: tuple[str, ...], now: datetime) -> bool:
    try:
        leaf = x509.load_pem_x509_certificate(pair[0])
        # As above: a key may be newer than its certificate.
        if not _fit(leaf, pair[1]):
            return False
        leaf.verify_directly_issued_by(authority)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except UNREADABLE:
        return False
    return set(names) == {_name(host) for host in hosts} and now < leaf.not_valid_after_utc - _LIFE / 2


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
