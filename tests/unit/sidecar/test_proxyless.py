import os
import stat
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from mesh.identity import CertificateAuthority, Svid
from mesh.identity.svid import create_key
from mesh.model import Address, ProxySpec, SpiffeId
from mesh.sidecar.proxyless import CertificateFiles, build_grpc_bootstrap

SPEC = ProxySpec("caller", "caller-1", "/run/out.sock", "/run/secrets")


@pytest.fixture
def make_svid(short_dir: Path) -> Any:
    authority = CertificateAuthority.open(short_dir / "ca", trust_domain="mesh.test")

    def make() -> Svid:
        key, csr = create_key()
        signed = authority.sign(
            csr, SpiffeId("mesh.test", "default", "caller"), reason="test", lifetime=timedelta(hours=1)
        )
        return Svid.from_pem(signed.chain_pem, key, authority.bundle_pem)

    return make


def fits(files: CertificateFiles) -> bool:
    """Read as gRPC reads: again when the time of a file, in full seconds, has changed meanwhile."""
    paths = [files.path / name for name in ("key.pem", "svid.pem")]
    while True:
        try:
            before = [int(path.stat().st_mtime) for path in paths]
            key, certificate = (path.read_bytes() for path in paths)
            if before == [int(path.stat().st_mtime) for path in paths]:
                break
        except FileNotFoundError:
            continue
    leaf = x509.load_pem_x509_certificate(certificate)
    return load_pem_private_key(key, None).public_key() == leaf.public_key()


def test_a_reader_never_gets_a_key_and_a_certificate_that_do_not_fit(short_dir: Path, make_svid: Any) -> None:
    files = CertificateFiles(short_dir / "grpc")
    svids = [make_svid() for _ in range(10)]
    files.replace(svids[0])
    done = threading.Event()

    def write() -> None:
        for svid in svids * 5:
            files.replace(svid)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while not done.is_set():
            assert fits(files)
    finally:
        writer.join()
    assert fits(files)


def test_the_files_are_for_nobody_else_and_old_ones_go(short_dir: Path, make_svid: Any) -> None:
    files = CertificateFiles(short_dir / "grpc")
    for _ in range(4):
        files.replace(make_svid())
    assert {path.name for path in files.path.iterdir()} == {"svid.pem", "key.pem", "bundle.pem"}
    for root, _, names in os.walk(short_dir / "grpc"):
        assert stat.S_IMODE(Path(root).stat().st_mode) == 0o700
        assert all(stat.S_IMODE((Path(root) / name).stat().st_mode) == 0o600 for name in names)
    # The newest, and those that somebody may be reading.
    assert len([path for path in (short_dir / "grpc").iterdir() if not path.is_symlink()]) == 2


def test_the_bootstrap_names_every_control_plane_and_the_files_for_both_uses(short_dir: Path) -> None:
    control_planes = (Address("10.0.0.1", 18000), Address("::1", 18000))
    bootstrap = build_grpc_bootstrap(SPEC, control_planes, Path("/run/current"), refresh=7)
    assert [it["server_uri"] for it in bootstrap["xds_servers"]] == ["10.0.0.1:18000", "[::1]:18000"]
    assert bootstrap["node"] == {"id": "caller/caller-1.grpc", "cluster": "caller"}
    files = {
        "certificate_file": "/run/current/svid.pem",
        "private_key_file": "/run/current/key.pem",
        "ca_certificate_file": "/run/current/bundle.pem",
        "refresh_interval": "7s",
    }
    assert all(it["channel_creds"] == [{"type": "tls", "config": files}] for it in bootstrap["xds_servers"])
    assert bootstrap["certificate_providers"] == {"default": {"plugin_name": "file_watcher", "config": files}}
