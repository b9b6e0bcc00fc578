"""Who stands between a workload and its control plane must not get the token."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from agentmesh.identity.v1 import identity_service_pb2_grpc as pb_grpc
from mesh.errors import FailedPrecondition, MeshError, Unauthenticated, Unavailable
from mesh.identity import CertificateAuthority, IdentitySettings, open_identity
from mesh.identity.first_contact import fetch_root
from mesh.identity.svid import create_key
from mesh.model import Address, SpiffeId

NAME = "control-plane.mesh"


class Thief(pb_grpc.IdentityServiceServicer):
    """Keeps every token that it gets."""

    def __init__(self) -> None:
        self.loot: list[str] = []

    async def SignCertificate(self, request: Any, context: Any) -> Any:
        self.loot.append(request.join_token)
        await context.abort(grpc.StatusCode.UNAVAILABLE, "thanks")


@asynccontextmanager
async def open_thief(chain: str, key: str) -> AsyncIterator[tuple[Thief, Address]]:
    thief, server = Thief(), grpc.aio.server()
    pb_grpc.add_IdentityServiceServicer_to_server(thief, server)
    credentials = grpc.ssl_server_credentials([(key.encode(), chain.encode())])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield thief, Address("127.0.0.1", port)
    finally:
        await server.stop(None)


def server_chain(
    authority: CertificateAuthority, *, service: str = "control-plane", dns: str = NAME
) -> tuple[str, str]:
    key, csr = create_key()
    identity = SpiffeId(authority.trust_domain, "default", service)
    names = (dns,) if dns else ()
    return authority.sign(csr, identity, reason="test", dns_names=names).chain_pem, key


@pytest.fixture
def other(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority.open(tmp_path / "other", trust_domain="test.local")


async def join_through(address: Address, control_plane: Any, always: Any, folder: Path) -> MeshError:
    settings = IdentitySettings("a", folder, address, (control_plane.control,), "test.local")
    with pytest.raises(MeshError) as caught:
        async with open_identity(settings, always(control_plane.token())):
            raise AssertionError
    return caught.value


async def test_another_authority_does_not_get_the_token(
    control_plane: Any, other: CertificateAuthority, always: Any, tmp_path: Path
) -> None:
    chain, key = server_chain(other)
    async with open_thief(chain + other.bundle_pem, key) as (thief, address):
        error = await join_through(address, control_plane, always, tmp_path / "id")
    assert isinstance(error, Unauthenticated) and error.reason == "CA_FINGERPRINT_MISMATCH"
    assert thief.loot == []


async def test_showing_the_right_root_is_not_enough_to_get_the_token(
    control_plane: Any, other: CertificateAuthority, always: Any, tmp_path: Path
) -> None:
    chain, key = server_chain(other)
    async with open_thief(chain + control_plane.authority.bundle_pem, key) as (thief, address):
        assert await fetch_root(address, control_plane.authority.fingerprint, server_name=NAME)
        error = await join_through(address, control_plane, always, tmp_path / "id")
    assert isinstance(error, Unavailable)
    assert thief.loot == []


async def test_a_member_of_the_mesh_does_not_get_the_token(control_plane: Any, always: Any, tmp_path: Path) -> None:
    authority = control_plane.authority
    chain, key = server_chain(authority, service="b", dns="")
    async with open_thief(chain + authority.bundle_pem, key) as (thief, address):
        error = await join_through(address, control_plane, always, tmp_path / "id")
    assert isinstance(error, Unavailable)
    assert thief.loot == []


async def test_the_right_server_would_get_the_token(control_plane: Any, always: Any, tmp_path: Path) -> None:
    """Without this one, the others here would hold for a thief that cannot be reached at all."""
    authority = control_plane.authority
    chain, key = server_chain(authority)
    async with open_thief(chain + authority.bundle_pem, key) as (thief, address):
        await join_through(address, control_plane, always, tmp_path / "id")
    assert len(thief.loot) == 1


async def test_the_root_is_the_one_with_the_fingerprint(control_plane: Any) -> None:
    authority = control_plane.authority
    root = await fetch_root(control_plane.enrolment, authority.fingerprint, server_name=NAME)
    assert root == authority.bundle_pem
    # The leaf is public, too, and must not be taken for a root.
    found = x509.load_pem_x509_certificate(root.encode())
    assert found.fingerprint(hashes.SHA256()).hex() == authority.fingerprint


async def test_nobody_at_the_address_is_unavailable(closed_port: Address) -> None:
    with pytest.raises(Unavailable, match=str(closed_port.port)) as caught:
        await fetch_root(closed_port, "0" * 64, server_name=NAME)
    assert caught.value.reason == "NO_CONTROL_PLANE" and caught.value.fix


async def test_a_server_that_says_nothing_is_given_up(open_raw_server: Any) -> None:
    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    async with open_raw_server(silent) as address:
        with pytest.raises(Unavailable, match=r"longer than 0\.2 s"):
            await fetch_root(address, "0" * 64, server_name=NAME, timeout=0.2)


async def test_a_server_that_drips_is_given_up_in_the_same_time(open_raw_server: Any) -> None:
    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The head of a TLS record, and then its body a byte at a time.
        writer.write(b"\x16\x03\x03\x40\x00")
        while True:
            writer.write(b"\x02")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with open_raw_server(drip) as address:
        with pytest.raises(Unavailable):
            async with asyncio.timeout(5):
                await fetch_root(address, "0" * 64, server_name=NAME, timeout=0.2)


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00" * 100_000, b""])
async def test_a_server_without_tls_is_told_so(open_raw_server: Any, said: bytes) -> None:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await writer.drain()

    async with open_raw_server(talk) as address:
        with pytest.raises(Unavailable) as caught:
            await fetch_root(address, "0" * 64, server_name=NAME)
    assert caught.value.reason == "NO_CONTROL_PLANE"


@pytest.mark.parametrize("hours", [-2.0, 2.0])
async def test_clocks_that_differ_too_much_are_told(control_plane: Any, clock: Any, hours: float) -> None:
    clock.jump(hours=hours)
    with pytest.raises(FailedPrecondition, match="Set the clocks") as caught:
        await fetch_root(control_plane.enrolment, control_plane.authority.fingerprint, server_name=NAME, clock=clock)
    assert caught.value.reason == "CLOCKS_DIFFER"


async def test_clocks_that_differ_a_little_do_not_matter(control_plane: Any, clock: Any) -> None:
    clock.offset = timedelta(minutes=-4)
    assert await fetch_root(control_plane.enrolment, control_plane.authority.fingerprint, server_name=NAME, clock=clock)
