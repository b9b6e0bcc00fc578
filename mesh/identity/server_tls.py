"""TLS for the control plane's own ports, with a certificate from its own authority that renews itself."""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import grpc

from mesh.errors import MeshError
from mesh.identity.authority import CLOCK_SKEW, WORKLOAD_LIFETIME, CertificateAuthority, SignedCertificate
from mesh.identity.svid import create_key
from mesh.model import SpiffeId
from mesh.telemetry import get_logger

CONTROL_PLANE = "control-plane"
TLS_NAME = f"{CONTROL_PLANE}.mesh"
"""The DNS name in the control plane's certificate; gRPC clients check it, Envoy checks the SPIFFE id."""

_log = get_logger(__name__)


class ServerTls:
    """Server credentials of one port."""

    def __init__(
        self,
        authority: CertificateAuthority,
        spiffe_id: SpiffeId,
        *,
        require_client_certificate: bool,
        lifetime: timedelta = WORKLOAD_LIFETIME,
        hosts: tuple[str, ...] = (),
    ) -> None:
        self._hosts = hosts
        self._authority = authority
        self._spiffe_id = spiffe_id
        self._lifetime = lifetime
        self._knows_callers = require_client_certificate
        self._bundle = ""
        self._lock = threading.Lock()
        self._private_key, self._signed = self._sign()

    def credentials(self) -> grpc.ServerCredentials:
        """Credentials for one server; they keep themselves fresh."""
        with self._lock:
            configuration = self._configuration()
        return grpc.dynamic_ssl_server_credentials(
            configuration,
            self._renewed,  # type: ignore[arg-type]  # the stubs forget that None means "no change"
            require_client_authentication=self._knows_callers,
        )

    def _sign(self) -> tuple[str, SignedCertificate]:
        private_key, csr = create_key()
        signed = self._authority.sign(
            csr,
            self._spiffe_id,
            reason="control-plane",
            lifetime=self._lifetime,
            dns_names=(TLS_NAME, *self._hosts),
            # Who has no certificate yet has nothing but a token, which names the root that it relies on.
            is_anchored=not self._knows_callers,
        )
        self._bundle = self._authority.bundle_pem
        return private_key, signed

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        # The root goes along, so that a workload with nothing but a token can compare its fingerprint.
        chain = (self._signed.chain_pem + self._bundle).encode()
        return grpc.ssl_server_certificate_configuration([(self._private_key.encode(), chain)], self._bundle.encode())

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """Asked by gRPC before each handshake, in a thread of its own; None: no change."""
        with self._lock:
            # A clock that was set back makes the certificate one of the future, which nobody takes.
            is_fresh = self._signed.issue_time - CLOCK_SKEW <= self._authority.now() < self._signed.renew_time
            if is_fresh and self._bundle == self._authority.bundle_pem:
                return None
            try:
                self._private_key, self._signed = self._sign()
            except MeshError as err:
                _log.error("server_certificate_not_renewed", spiffe_id=str(self._spiffe_id), error=str(err))
                return None
            return self._configuration()


@asynccontextmanager
async def open_server_credentials(
    authority: CertificateAuthority,
    service: str = CONTROL_PLANE,
    *,
    require_client_certificate: bool,
    namespace: str = "default",
    lifetime: timedelta = WORKLOAD_LIFETIME,
    hosts: tuple[str, ...] = (),
) -> AsyncIterator[ServerTls]:
    """Credentials for a port of `service`, renewed at half life at the next handshake; connections stay as they are.

    `hosts` are names and addresses under which the port is dialled by clients that cannot be told to expect another
    name, as gRPC's own xDS client.
    """
    spiffe_id = SpiffeId(authority.trust_domain, namespace, service)
    yield ServerTls(
        authority,
        spiffe_id,
        require_client_certificate=require_client_certificate,
        lifetime=lifetime,
        hosts=hosts,
    )
