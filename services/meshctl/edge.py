"""Where the edge of the running mesh is, and by which of its doors meshctl goes in."""

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from mesh.config import MeshSettings
from mesh.errors import FailedPrecondition
from mesh.model import Address
from services.meshctl.connection import RunningMesh

_CONNECT_TIMEOUT = 1.0


@dataclass(frozen=True, slots=True)
class Edge:
    """A door of the edge; `authority` is the file (PEM) of whom its certificate comes from, None: the system's own."""

    address: Address
    has_tls: bool
    authority: Path | None = None

    @property
    def url(self) -> str:
        """Its URL without a path."""
        return f"{'https' if self.has_tls else 'http'}://{self.address}"

    def tls_context(self) -> ssl.SSLContext | bool:
        """For HTTP clients; False without TLS."""
        return ssl.create_default_context(cafile=self.authority) if self.has_tls else False

    def grpc_credentials(self) -> grpc.ChannelCredentials | None:
        """For gRPC clients; None without TLS."""
        if not self.has_tls:
            return None
        return grpc.ssl_channel_credentials(self.authority.read_bytes() if self.authority is not None else None)


def find_edge(settings: MeshSettings) -> Edge:
    """The door without TLS where it is open, else the one with TLS."""
    running = RunningMesh.load(settings)
    plain = running.gateway if running else settings.gateway_bind
    secure = running.gateway_tls if running else settings.gateway_tls_bind
    if _accepts(plain):
        return Edge(plain, has_tls=False)
    authority = None
    if settings.edge_certificate is None:
        authority = settings.state_dir / "edge" / "ca.pem"
        if not authority.exists():
            raise FailedPrecondition(
                f"Neither door of the edge is open: {plain} takes no connections, and {authority} is not there.",
                reason="NO_EDGE",
                fix="Start the mesh with `meshctl up`.",
            )
    return Edge(secure, has_tls=True, authority=authority)


def _accepts(address: Address) -> bool:
    try:
        with socket.create_connection((address.host, address.port), timeout=_CONNECT_TIMEOUT):
            return True
    except OSError:
        return False
