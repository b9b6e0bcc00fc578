"""A control plane's ADS port with mutual TLS, and identities that its authority has signed."""

import asyncio
import contextlib

import pytest

from mesh.identity import CertificateAuthority, Svid, open_server_credentials
from mesh.identity.svid import create_key
from mesh.model import Address, SpiffeId
from mesh.rpc import ServerSettings, open_server
from mesh.runtime import open_background
from mesh.telemetry import configure_logs
from mesh.xds import AdsServer

TRUST_DOMAIN = "mesh.test"


class Authority:
    """The authority of one mesh."""

    def __init__(self, directory):
        self.directory = directory / "ca"
        self.ca = CertificateAuthority.open(directory / "ca", trust_domain=TRUST_DOMAIN)

    def svid(self, service, *, dns_names=()):
        key, csr = create_key()
        signed = self.ca.sign(csr, SpiffeId(TRUST_DOMAIN, "default", service), reason="test", dns_names=dns_names)
        return Svid.from_pem(signed.chain_pem, key, self.ca.bundle_pem)


@pytest.fixture(autouse=True)
def _logs():
    configure_logs("test")


@pytest.fixture
def authority(short_dir):
    return Authority(short_dir)


@pytest.fixture
def serve_ads(authority):
    """ADS from a store as the control plane serves it: identities come from certificates."""

    @contextlib.asynccontextmanager
    async def serve(store, *, port=0, credentials=None, **limits):
        ads = AdsServer(store)
        async with (
            asyncio.timeout(40),
            open_server_credentials(authority.ca, require_client_certificate=True) as tls,
            open_background(ads.run()),
        ):
            settings = ServerSettings(
                "control-plane",
                f"127.0.0.1:{port}",
                credentials=credentials or tls.credentials,
                drain_grace=0.2,
                **limits,
            )
            async with open_server(settings, [], generic_handlers=[ads.handler]) as server:
                yield ads, Address("127.0.0.1", server.port)

    return serve


@pytest.fixture
def eventually():
    """Waits until a condition holds, for at most 10 seconds."""

    async def wait(condition):
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.01)

    return wait
