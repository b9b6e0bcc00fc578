"""Where the edge of the running mesh is, and by which of its doors meshctl goes in."""

import ipaddress
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import grpc

from mesh.config import MeshSettings
from mesh.errors import FailedPrecondition, InvalidInput
from mesh.model import Address
from services.meshctl.connection import RunningMesh

_CONNECT_TIMEOUT = 1.0
_PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class Edge:
    """A door of the edge; `authority` is the file (PEM) of whom its certificate comes from, None: the system's own.

    `is_own` tells that it is an edge of the mesh in the state directory, and not one that was named by its URL.
    """

    address: Address
    has_tls: bool
    authority: Path | None = None
    is_own: bool = True

    @property
    def url(self) -> str:
        """Its URL without a path."""
        return f"{'https' if self.has_tls else 'http'}://{self.address}"

    def tls_context(self) -> ssl.SSLContext | bool:
        """For HTTP clients; False without TLS. Raises FailedPrecondition when the authority cannot be read."""
        if not self.has_tls:
            return False
        try:
            return ssl.create_default_context(cafile=self.authority)
        except OSError as err:
            raise self._unreadable(err) from err

    def grpc_credentials(self) -> grpc.ChannelCredentials | None:
        """For gRPC clients; None without TLS. Raises FailedPrecondition when the authority cannot be read."""
        if not self.has_tls:
            return None
        try:
            return grpc.ssl_channel_credentials(self.authority.read_bytes() if self.authority is not None else None)
        except OSError as err:
            raise self._unreadable(err) from err

    def _unreadable(self, err: OSError) -> FailedPrecondition:
        return FailedPrecondition(
            f"The certificates of whom the edge at {self.url} is to be trusted for cannot be read: "
            f"{err.strerror or err}.",
            field=str(self.authority),
            fix="Name a file with certificates (PEM).",
        )


def find_edge(settings: MeshSettings) -> Edge:
    """The door without TLS where it is open, else the one with TLS."""
    running = RunningMesh.load(settings)
    plain = running.gateway if running else settings.gateway_bind
    secure = running.gateway_tls if running else settings.gateway_tls_bind
    if plain is not None and _accepts(plain):
        return Edge(plain, has_tls=False)
    authority = None
    if settings.edge_certificate is None:
        authority = settings.state_dir / "edge" / "ca.pem"
        if not authority.exists():
            raise FailedPrecondition(
                f"No door of the edge is open: {plain or secure} takes no connections, and {authority} is not there.",
                reason="NO_EDGE",
                fix="Start the mesh with `meshctl up`.",
            )
    return Edge(secure, has_tls=True, authority=authority)


def parse_edge(url: str, authority: Path | None = None) -> Edge:
    """The edge at a URL such as https://mesh.example:8443. Raises InvalidInput.

    Without TLS only this machine can be named: what is shown there is shown to the whole way.
    """
    fix = "Write https://HOST or https://HOST:PORT."
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as err:
        raise InvalidInput(f"{url!r} is not the URL of an edge.", field="url", fix=fix) from err
    is_bare = parts.path in ("", "/") and not parts.query and not parts.fragment and parts.username is None
    if parts.scheme not in _PORTS or not host or not is_bare:
        raise InvalidInput(f"{url!r} is not the URL of an edge.", field="url", fix=fix)
    if parts.scheme == "http" and not _is_this_machine(host):
        raise InvalidInput(f"{url} would show the password to everybody on the way.", field="url", fix=fix)
    address = Address(host, _PORTS[parts.scheme] if port is None else port)
    return Edge(address, has_tls=parts.scheme == "https", authority=authority, is_own=False)


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _accepts(address: Address) -> bool:
    try:
        with socket.create_connection((address.host, address.port), timeout=_CONNECT_TIMEOUT):
            return True
    except OSError:
        return False
