"""An identity of the control plane's own, with which it calls into the mesh."""

from datetime import timedelta

import grpc

from mesh.errors import MeshError
from mesh.identity.authority import CLOCK_SKEW, WORKLOAD_LIFETIME, CertificateAuthority, SignedCertificate
from mesh.identity.svid import create_key
from mesh.model import SpiffeId
from mesh.telemetry import get_logger

_log = get_logger(__name__)


class ClientTls:
    """A certificate from the own authority that renews itself when it is looked at. It is kept in memory only."""

    def __init__(
        self, authority: CertificateAuthority, spiffe_id: SpiffeId, *, lifetime: timedelta = WORKLOAD_LIFETIME
    ) -> None:
        self._authority = authority
        self._spiffe_id = spiffe_id
        self._lifetime = lifetime
        self._private_key, self._signed = self._sign()
        self._bundle = authority.bundle_pem

    @property
    def current(self) -> SignedCertificate:
        """The newest certificate: another one from half life on, and when the roots have changed."""
        # A clock that was set back makes the certificate one of the future, which nobody takes.
        is_fresh = self._signed.issue_time - CLOCK_SKEW <= self._authority.now() < self._signed.renew_time
        if not is_fresh or self._bundle != self._authority.bundle_pem:
            try:
                self._private_key, self._signed = self._sign()
                self._bundle = self._authority.bundle_pem
            except MeshError as err:
                _log.error("client_certificate_not_renewed", spiffe_id=str(self._spiffe_id), error=str(err))
        return self._signed

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Mutual TLS with the newest certificate."""
        chain = self.current.chain_pem.encode()
        return grpc.ssl_channel_credentials(self._bundle.encode(), self._private_key.encode(), chain)

    def _sign(self) -> tuple[str, SignedCertificate]:
        private_key, csr = create_key()
        return private_key, self._authority.sign(csr, self._spiffe_id, reason="control-plane", lifetime=self._lifetime)
