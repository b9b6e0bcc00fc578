"""The first contact with a control plane, of which nothing is known but the fingerprint of its root."""

import socket
import struct

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from OpenSSL import SSL

from mesh.errors import Unauthenticated, Unavailable
from mesh.model import Address

_TIMEOUT = 5.0


def fetch_root(address: Address, fingerprint: str, *, server_name: str, timeout: float = _TIMEOUT) -> str:
    """The root (PEM) that the server at `address` shows, if its SHA-256 is `fingerprint`. Blocks up to `timeout` s.

    Nothing is sent but the handshake. Raises Unavailable when nobody answers, Unauthenticated when the root is another.
    """
    for certificate in _chain_of(address, server_name, timeout):
        if certificate.fingerprint(hashes.SHA256()).hex() == fingerprint:
            return certificate.public_bytes(serialization.Encoding.PEM).decode()
    raise Unauthenticated(
        f"The control plane at {address} is not the one that made the join token.",
        reason="CA_FINGERPRINT_MISMATCH",
        field="join_token",
        fix="Check the address. If it is right, somebody may be in between; else make a new token there.",
    )


def _chain_of(address: Address, server_name: str, timeout: float) -> list[x509.Certificate]:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_verify(SSL.VERIFY_NONE)
    context.set_alpn_protos([b"h2"])
    try:
        with socket.create_connection((address.host, address.port), timeout=timeout) as plain:
            plain.setblocking(True)  # pyOpenSSL knows no socket timeouts of Python's; the kernel's do as well
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                plain.setsockopt(socket.SOL_SOCKET, option, _timeval(timeout))
            connection = SSL.Connection(context, plain)
            connection.set_tlsext_host_name(server_name.encode())
            connection.set_connect_state()
            connection.do_handshake()
            return [certificate.to_cryptography() for certificate in connection.get_peer_cert_chain() or ()]
    except (OSError, SSL.Error) as err:
        raise Unavailable(
            f"No control plane answers at {address}: {err or type(err).__name__}.",
            reason="NO_CONTROL_PLANE",
            fix="Check the enrolment address, and that the control plane runs.",
        ) from err


def _timeval(seconds: float) -> bytes:
    return struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))
