"""The roots of the mesh at one moment, and how one takes the place of another without a member that trusts neither.

    steady ──start──> distributing ──a lifetime──> switching ──a lifetime──> steady
    signs: old        signs: old                   signs: new                signs: new
    trusted: old      trusted: old, new            trusted: new, old         trusted: new

A member renews at half of its certificate's life and gets the trusted roots with it. So a lifetime after a root was
added every certificate that has not ended came together with it; only then it signs. A lifetime after that nothing that
the old root has signed is left, and it goes. roots.json is the one commit point: a crash leaves one stage or the next.
"""

import json
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mesh.errors import FailedPrecondition
from mesh.identity.root import (
    ROTATED_FORMAT,
    build_root,
    check_format,
    key_to_pem,
    open_root,
    parse_key,
    parse_root,
    set_format,
)
from mesh.runtime.private_files import hold_private_dir, read_secret, remove_file, write_file
from mesh.telemetry import get_logger

_FILE = "roots.json"
_FIRST = "root"

MARGIN = timedelta(seconds=5)
"""What a stage lasts beyond the lifetime: files reach Envoy, and clocks of one machine differ by less."""

RENEW_BEFORE_END = timedelta(days=365)
"""A root that ends sooner than this is replaced by itself."""

_RESTORE = "Restore the folder from a copy, or begin with another state directory; every member then has to join anew."

_log = get_logger(__name__)


class Stage(StrEnum):
    """How far a rotation is."""

    STEADY = "steady"
    DISTRIBUTING = "distributing"
    SWITCHING = "switching"


@dataclass(frozen=True, slots=True)
class Root:
    """A key that signs, with its certificate; `name` is that of its two files."""

    name: str
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate's DER, hexadecimal."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()

    @property
    def pem(self) -> str:
        """The certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()


@dataclass(frozen=True, slots=True)
class Roots:
    """The roots at one moment.

    `signer` signs workloads. `anchor` signs the port for first certificates, and join tokens carry its fingerprint: it
    is the old root until that goes, so that a token is good for as long as its root is trusted. `since` is when the
    stage began.
    """

    signer: Root
    other: Root | None = None
    stage: Stage = Stage.STEADY
    since: datetime | None = None

    @property
    def anchor(self) -> Root:
        """The root that whoever has only a token can rely on."""
        return self.other if self.stage is Stage.SWITCHING and self.other is not None else self.signer

    @property
    def trusted(self) -> tuple[Root, ...]:
        """All that members shall trust."""
        return (self.signer,) if self.other is None else (self.signer, self.other)

    @property
    def bundle_pem(self) -> str:
        """The certificates of all trusted roots."""
        return "".join(root.pem for root in self.trusted)

    def next_time(self, lifetime: timedelta) -> datetime | None:
        """When the stage may end; None when no rotation is under way."""
        return None if self.since is None else self.since + lifetime + MARGIN


class RootFolder:
    """The authority's folder. Several processes may use it; each sees what another one did by `reload`."""

    def __init__(self, directory: Path, trust_domain: str) -> None:
        self._directory = directory
        self._trust_domain = trust_domain
        self._stamp: tuple[int, int] | None = None

    def open(self, now: datetime) -> Roots:
        """The roots; makes the first one when there is none. Raises FailedPrecondition that names the file at fault."""
        self._stamp = self._read_stamp()
        content = self._read()
        if content is None:
            key, certificate = open_root(self._directory, trust_domain=self._trust_domain, now=now)
            return Roots(Root(_FIRST, key, certificate))
        with hold_private_dir(self._directory):
            check_format(self._directory)
        return self._parse(content)

    def reload(self) -> Roots | None:
        """The roots when another process may have changed them, else None."""
        stamp = self._read_stamp()
        if stamp == self._stamp:
            return None
        self._stamp = stamp
        content = self._read()
        return self._parse(content) if content is not None else None

    def start(self, roots: Roots, now: datetime) -> Roots:
        """Make a new root and begin to distribute it; raises FailedPrecondition while a rotation is under way."""
        if roots.stage is not Stage.STEADY:
            raise FailedPrecondition(
                f"A rotation of the root is under way: it is {roots.stage}.",
                reason="ROTATION_UNDER_WAY",
                fix="Wait until it has ended; `meshctl certs root` tells how far it is.",
            )
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = build_root(key, self._trust_domain, now, is_first=False)
        name = f"{_FIRST}-{certificate.serial_number:x}"[:24]
        fresh = Root(name, key, certificate)
        with hold_private_dir(self._directory):
            set_format(self._directory, ROTATED_FORMAT)
            write_file(self._directory / f"{name}.key", key_to_pem(key), mode=0o600)
            write_file(self._directory / f"{name}.pem", fresh.pem.encode(), mode=0o600)
            return self._commit(replace(roots, other=fresh, stage=Stage.DISTRIBUTING, since=now))

    def advance(self, roots: Roots, now: datetime, lifetime: timedelta) -> Roots:
        """Go on to the next stage when the present one has lasted; the same roots when it has not."""
        due = roots.next_time(lifetime)
        if due is None or now < due or roots.other is None:
            return roots
        with hold_private_dir(self._directory):
            if roots.stage is Stage.DISTRIBUTING:
                return self._commit(Roots(roots.other, roots.signer, Stage.SWITCHING, now))
            done = self._commit(Roots(roots.signer))
            for suffix in ("key", "pem"):
                remove_file(self._directory / f"{roots.other.name}.{suffix}")
            return done

    def _commit(self, roots: Roots) -> Roots:
        content = {
            "signer": roots.signer.name,
            "other": roots.other.name if roots.other is not None else None,
            "stage": roots.stage.value,
            "since": roots.since.isoformat() if roots.since is not None else None,
        }
        write_file(self._directory / _FILE, (json.dumps(content) + "\n").encode(), mode=0o600)
        self._stamp = self._read_stamp()
        _log.info("root_rotation", stage=roots.stage.value, signer=roots.signer.fingerprint[:16])
        return roots

    def _read(self) -> dict[str, Any] | None:
        data = read_secret(self._directory / _FILE)
        if data is None:
            return None
        try:
            content = json.loads(data)
            if not isinstance(content, dict):
                raise ValueError("it is no mapping")
        except ValueError as err:
            raise self._damaged(str(err)) from err
        return content

    def _parse(self, content: dict[str, Any]) -> Roots:
        try:
            since = content["since"]
            return Roots(
                signer=self._load(content["signer"]),
                other=self._load(content["other"]) if content["other"] is not None else None,
                stage=Stage(content["stage"]),
                since=datetime.fromisoformat(since) if since is not None else None,
            )
        except (ValueError, KeyError, TypeError) as err:
            raise self._damaged(str(err)) from err

    def _load(self, name: str) -> Root:
        key_path, root_path = self._directory / f"{name}.key", self._directory / f"{name}.pem"
        key_pem, root_pem = read_secret(key_path), read_secret(root_path)
        for path, pem in ((key_path, key_pem), (root_path, root_pem)):
            if pem is None:
                raise FailedPrecondition(f"{path} is missing.", field=str(path), fix=_RESTORE)
        assert key_pem is not None and root_pem is not None
        key = parse_key(key_path, key_pem)
        return Root(name, key, parse_root(root_path, root_pem, key, trust_domain=self._trust_domain))

    def _read_stamp(self) -> tuple[int, int] | None:
        try:
            status = (self._directory / _FILE).stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino

    def _damaged(self, detail: str) -> FailedPrecondition:
        path = self._directory / _FILE
        return FailedPrecondition(f"{path} is damaged: {detail}.", field=str(path), fix=_RESTORE)


def next_of(roots: Roots, lifetime: timedelta) -> str:
    """For a person: what happens next, and when."""
    due = roots.next_time(lifetime)
    if due is None:
        return ""
    what = "the new root signs" if roots.stage is Stage.DISTRIBUTING else "the old root is trusted no more"
    return f"{what} from {due.isoformat(timespec='seconds')}"
