"""The first contact with a control plane, of which nothing is known but the fingerprint of its root.

What is fetched here proves nothing by itself: a root is public, and anybody may show it. It becomes the one root that
the connection with the token trusts, and there the other side has to prove that the root has signed its key.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from OpenSSL import SSL

from mesh.errors import FailedPrecondition, Unauthenticated, Unavailable
from mesh.identity.root import utc_now
from mesh.identity.x509_errors import UNREADABLE
from mesh.model import Address

_TIMEOUT = 5.0
_CHUNK = 16 << 10
_LONGEST_HANDSHAKE = 256 << 10
_FAILURES: tuple[type[Exception], ...] = (OSError, SSL.Error, *UNREADABLE)


async def fetch_root(
    address: Address,
    fingerprint: str,
    *,
    server_name: str,
    timeout: float = _TIMEOUT,
    clock: Callable[[], datetime] = utc_now,
) -> str:
    """The root (PEM) that the server at `address` shows, if its SHA-256 is `fingerprint`.

    Nothing is sent but the handshake, which has `timeout` seconds. Raises Unavailable when nobody answers,
    Unauthenticated when the root is another, FailedPrecondition when the clocks differ by so much that nobody here
    would believe the server.
    """
    chain = await _chain_of(address, server_name, timeout)
    for certificate in chain:
        if certificate.fingerprint(hashes.SHA256()).hex() == fingerprint:
            _check_clock(chain[0], clock(), address)
            return certificate.public_bytes(serialization.Encoding.PEM).decode()
    raise Unauthenticated(
        f"The control plane at {address} is not the one that made the join token.",
        reason="CA_FINGERPRINT_MISMATCH",
        field="join_token",
        fix="Check the address. If it is right, somebody may be in between; else make a new token there.",
    )


def _check_clock(leaf: x509.Certificate, now: datetime, address: Address) -> None:
    if not leaf.not_valid_before_utc <= now < leaf.not_valid_after_utc:
        raise FailedPrecondition(
            f"It is {now.isoformat(timespec='seconds')} here, and the certificate of the control plane at {address} is"
            f" valid from {leaf.not_valid_before_utc.isoformat()} to {leaf.not_valid_after_utc.isoformat()}.",
            reason="CLOCKS_DIFFER",
            fix="Set the clocks of both machines, for example by NTP.",
        )


async def _chain_of(address: Address, server_name: str, timeout: float) -> list[x509.Certificate]:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_verify(SSL.VERIFY_NONE)
    context.set_alpn_protos([b"h2"])
    connection = SSL.Connection(context, None)
    connection.set_tlsext_host_name(server_name.encode())
    connection.set_connect_state()
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            try:
                await _shake_hands(connection, reader, writer)
            finally:
                writer.transport.abort()
        return [certificate.to_cryptography() for certificate in connection.get_peer_cert_chain() or ()]
    except TimeoutError as err:
        raise _no_answer(address, f"it took longer than {timeout:g} s") from err
    except _FAILURES as err:
        raise _no_answer(address, _text_of(err)) from err


async def _shake_hands(connection: SSL.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    received = 0
    is_done = False
    while not is_done:
        try:
            connection.do_handshake()
            is_done = True
        except SSL.WantReadError:
            pass
        _flush(connection, writer)
        await writer.drain()
        if is_done:
            return
        data = await reader.read(_CHUNK)
        received += len(data)
        if not data or received > _LONGEST_HANDSHAKE:
            raise ConnectionResetError("it does not speak TLS")
        connection.bio_write(data)


def _flush(connection: SSL.Connection, writer: asyncio.StreamWriter) -> None:
    while True:
        try:
            writer.write(connection.bio_read(_CHUNK))
        except SSL.WantReadError:
            return


def _text_of(err: Exception) -> str:
    if isinstance(err, SSL.Error) and err.args and isinstance(err.args[0], list):
        return ", ".join(str(part[-1]) for part in err.args[0])
    return str(err) or type(err).__name__


def _no_answer(address: Address, detail: str) -> Unavailable:
    return Unavailable(
        f"No control plane answers at {address}: {detail}.",
        reason="NO_CONTROL_PLANE",
        fix="Check the enrolment address, and that the control plane runs.",
    )
