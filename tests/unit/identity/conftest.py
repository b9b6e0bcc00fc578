"""An authority and join tokens in a folder, under a clock that can be set."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mesh.identity import CertificateAuthority, JoinTokens
from mesh.telemetry import configure_logs

NewCsr = Callable[..., bytes]


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def jump(self, **by: float) -> None:
        self.now += timedelta(**by)


@pytest.fixture(autouse=True)
def _logs() -> None:
    configure_logs("test", level="debug", is_for_foreign=False)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "ca"


@pytest.fixture
def authority(folder: Path, clock: Clock) -> CertificateAuthority:
    return CertificateAuthority.open(folder, trust_domain="test.local", clock=clock)


@pytest.fixture
def tokens(folder: Path, clock: Clock) -> JoinTokens:
    return JoinTokens.open(folder, clock=clock)


@pytest.fixture
def new_csr() -> NewCsr:
    """Makes a request, with any key and any names."""

    def build(*names: x509.GeneralName, key: object = None) -> bytes:
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        request = builder.sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())  # type: ignore[arg-type]
        return request.public_bytes(serialization.Encoding.DER)

    return build
