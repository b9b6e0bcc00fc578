"""What gRPC's own xDS client needs of its launcher: a bootstrap, and certificate files that always fit together.

    RUN/grpc/bootstrap.json            named by GRPC_XDS_BOOTSTRAP; read once by each process
    RUN/grpc/current -> RUN/grpc/ID    svid.pem, key.pem, bundle.pem of one moment, replaced together

gRPC's file watcher reads the files one after the other and, when the time of one has changed meanwhile, again; it looks
at full seconds. One link leads to all of them, so a new certificate changes all times at once, and no reader ends up
with a key and a certificate of two moments. The format of the bootstrap is that of gRPC's proposals A27, A29 and A65:
https://github.com/grpc/proposal
"""

import json
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mesh.errors import FailedPrecondition, MeshError
from mesh.identity import Identity, Svid
from mesh.model import Address, ProxySpec
from mesh.runtime import open_background
from mesh.runtime.private_files import make_private_dir, write_file
from mesh.telemetry import get_logger

BOOTSTRAP_VARIABLE = "GRPC_XDS_BOOTSTRAP"
"""The environment variable by which every gRPC implementation finds its xDS bootstrap."""

CERTIFICATE_PROVIDER = "default"
"""The name under which the control plane's clusters refer to the certificate files."""

_SHORTEST_REFRESH, _LONGEST_REFRESH = 1, 60
"""Seconds between two looks at the files."""

_CURRENT = "current"

_log = get_logger(__name__)


class CertificateFiles:
    """The PEM files of a workload in a folder that only its owner can enter."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def path(self) -> Path:
        """Where the newest files are: svid.pem, key.pem and bundle.pem."""
        return self._directory / _CURRENT

    def replace(self, svid: Svid) -> None:
        """Put all files in place in one step; raises FailedPrecondition when they cannot be written."""
        make_private_dir(self._directory)
        fresh = self._directory / secrets.token_hex(8)
        make_private_dir(fresh)
        write_file(fresh / "bundle.pem", svid.trust_bundle.encode(), mode=0o600)
        write_file(fresh / "key.pem", svid.private_key.encode(), mode=0o600)
        write_file(fresh / "svid.pem", svid.certificate_chain.encode(), mode=0o600)
        before = self._target()
        self._set_time(fresh)
        link = self._directory / f"{fresh.name}.new"
        try:
            link.symlink_to(fresh.name)
            link.replace(self.path)
        except OSError as err:
            raise FailedPrecondition(
                f"{self.path} cannot be written: {err.strerror or err}.", reason="STATE_NOT_WRITABLE"
            ) from err
        # Whoever is reading at this moment may still need those before.
        for old in self._directory.iterdir():
            if old.is_dir() and not old.is_symlink() and old.name not in {fresh.name, before}:
                shutil.rmtree(old, ignore_errors=True)

    def _set_time(self, fresh: Path) -> None:
        """Give the new files another time than those before, in full seconds."""
        now = int(time.time())
        if (self.path / "key.pem").exists():
            now = max(now, int((self.path / "key.pem").stat().st_mtime) + 1)
        for path in fresh.iterdir():
            os.utime(path, (now, now))

    def _target(self) -> str:
        return self.path.readlink().name if self.path.is_symlink() else ""


def build_grpc_bootstrap(
    spec: ProxySpec, control_planes: tuple[Address, ...], certificates: Path, *, refresh: int
) -> dict[str, Any]:
    """The bootstrap of gRPC's own xDS client: ADS over mutual TLS, by the files that its calls use, too.

    `certificates` is the folder with the PEM files, `refresh` the seconds between two looks at them.
    """
    files = {
        "certificate_file": str(certificates / "svid.pem"),
        "private_key_file": str(certificates / "key.pem"),
        "ca_certificate_file": str(certificates / "bundle.pem"),
        "refresh_interval": f"{refresh}s",
    }
    return {
        "xds_servers": [
            {
                "server_uri": str(address),
                "channel_creds": [{"type": "tls", "config": files}],
                "server_features": ["xds_v3"],
            }
            for address in control_planes
        ],
        # Beside an Envoy of the same instance it is a client of its own.
        "node": {"id": f"{spec.node_id}.grpc", "cluster": spec.service},
        "certificate_providers": {CERTIFICATE_PROVIDER: {"plugin_name": "file_watcher", "config": files}},
    }


@asynccontextmanager
async def open_proxyless(
    spec: ProxySpec, control_planes: tuple[Address, ...], identity: Identity, directory: Path
) -> AsyncIterator[Path]:
    """Keep the files of a client without an Envoy fresh while the context is open; gives the path of its bootstrap.

    Raises FailedPrecondition when `directory` cannot be written.
    """
    files = CertificateFiles(directory)
    files.replace(identity.current)
    bootstrap = build_grpc_bootstrap(spec, control_planes, files.path, refresh=_refresh(identity.current))
    path = directory / "bootstrap.json"
    write_file(path, json.dumps(bootstrap, indent=1).encode() + os.linesep.encode(), mode=0o600)
    async with open_background(_follow(identity, files)):
        yield path


async def _follow(identity: Identity, files: CertificateFiles) -> None:
    while True:
        await identity.wait_for_renewal()
        try:
            files.replace(identity.current)
        except MeshError as err:
            # The files of before are good for half of their life; the next renewal tries again.
            _log.error("certificate_files_not_replaced", spiffe_id=str(identity.current.spiffe_id), error=str(err))


def _refresh(svid: Svid) -> int:
    """A tenth of a certificate's life: it is read long before the one before has ended."""
    life = (svid.expire_time - svid.issue_time).total_seconds()
    return int(min(max(life / 10, _SHORTEST_REFRESH), _LONGEST_REFRESH))
