"""Who is not of the mesh gets nothing from a sidecar."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from mesh.identity import CertificateAuthority
from mesh.identity.svid import create_key
from mesh.model import Address, SpiffeId

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
CALLER = SpiffeId("test.local", "default", "caller")


@pytest.fixture
async def inbound(control_plane: Any) -> AsyncIterator[Address]:
    async with control_plane.open("echo", instance="echo-1", deregister_wait=0.05) as member:
        await control_plane.wait_healthy("echo")
        yield member.spec.inbound


def write_certificate(authority: CertificateAuthority, folder: Path, spiffe_id: SpiffeId = CALLER) -> None:
    key, csr = create_key()
    (folder / "chain.pem").write_text(authority.sign(csr, spiffe_id, reason="test").chain_pem)
    (folder / "key.pem").write_text(key)


def answer_to_preface(address: Address, folder: Path | None) -> bytes:
    """What a sidecar says to the beginning of an HTTP/2 connection over TLS, nothing when it hangs up."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if folder is not None:
        context.load_cert_chain(folder / "chain.pem", folder / "key.pem")
    with socket.create_connection((address.host, address.port), timeout=5) as raw:
        with contextlib.suppress(ssl.SSLError, ConnectionError), context.wrap_socket(raw) as connection:
            # With TLS 1.3 the refusal of a client's certificate comes after the client's side of the handshake.
            connection.sendall(PREFACE)
            return connection.recv(1024)
    return b""


async def test_a_client_without_tls_is_refused(inbound: Address, open_echo: Any) -> None:
    async with open_echo(str(inbound)) as echo:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await echo.say(b"0", timeout=2)
        assert caught.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


async def test_a_client_without_a_certificate_is_refused(inbound: Address) -> None:
    assert await asyncio.to_thread(answer_to_preface, inbound, None) == b""


async def test_a_client_of_another_authority_is_refused(inbound: Address, short_dir: Path) -> None:
    foreign = CertificateAuthority.open(short_dir / "foreign", trust_domain="test.local")
    await asyncio.to_thread(write_certificate, foreign, short_dir)
    assert await asyncio.to_thread(answer_to_preface, inbound, short_dir) == b""


async def test_a_client_of_another_namespace_is_refused(inbound: Address, control_plane: Any, short_dir: Path) -> None:
    elsewhere = SpiffeId("test.local", "other", "caller")
    await asyncio.to_thread(write_certificate, control_plane.authority, short_dir, elsewhere)
    assert await asyncio.to_thread(answer_to_preface, inbound, short_dir) == b""


async def test_a_member_is_let_in_by_the_same_means(inbound: Address, control_plane: Any, short_dir: Path) -> None:
    await asyncio.to_thread(write_certificate, control_plane.authority, short_dir)
    answer = await asyncio.to_thread(answer_to_preface, inbound, short_dir)
    assert answer[3] == 4, "an HTTP/2 SETTINGS frame"


async def test_the_sockets_of_a_member_are_open_to_its_own_user_only(inbound: Address, control_plane: Any) -> None:
    run = control_plane.state_dir / "run" / "echo-1"
    assert run.stat().st_mode & 0o777 == 0o700
    modes = {path.name: path.stat().st_mode & 0o777 for path in run.iterdir()}
    assert modes.pop("app.sock") & 0o700, "the application's own business; the folder keeps others out"
    assert modes == {
        "admin.sock": 0o600,
        "out.sock": 0o600,
        "bootstrap.json": 0o600,
        "lock": 0o600,
        "secrets": 0o700,
    }
