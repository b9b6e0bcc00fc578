"""IdentityService, as the enrolment port and as the control port serve it."""

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from agentmesh.identity.v1 import identity_service_pb2, identity_service_pb2_grpc
from mesh.errors import InvalidInput, PermissionDenied, Unauthenticated
from mesh.identity.authority import CertificateAuthority, SignedCertificate, key_digest
from mesh.identity.server_tls import CONTROL_PLANE
from mesh.identity.tokens import JoinTokens
from mesh.model import SpiffeId, check_service_name
from mesh.telemetry import get_logger

_log = get_logger(__name__)


def peer_spiffe_id(context: Any) -> SpiffeId:
    """Who the caller is by the certificate of its TLS connection; raises Unauthenticated when there is none."""
    found: list[bytes] = list(context.auth_context().get("peer_spiffe_id") or ())
    try:
        return SpiffeId.parse(b"".join(found).decode())
    except (UnicodeDecodeError, InvalidInput) as err:
        raise Unauthenticated(
            "The connection shows no identity of this mesh.",
            reason="NO_PEER_IDENTITY",
            fix="Connect with the certificate that the mesh has issued.",
        ) from err


class IdentityServicer(identity_service_pb2_grpc.IdentityServiceServicer):
    """Signs for a join token (`enrolment`) or for the caller's current certificate."""

    def __init__(self, authority: CertificateAuthority, tokens: JoinTokens, namespace: str, *, enrolment: bool) -> None:
        self._authority = authority
        self._tokens = tokens
        self._namespace = namespace
        self._enrolment = enrolment

    async def SignCertificate(
        self, request: identity_service_pb2.SignCertificateRequest, context: Any
    ) -> identity_service_pb2.SignCertificateResponse:
        check_service_name(request.service)
        digest = key_digest(request.csr)
        try:
            spiffe_id = self._by_token(request, digest) if self._enrolment else self._by_certificate(request, context)
        except (Unauthenticated, PermissionDenied) as err:
            _log.warning("certificate_refused", for_service=request.service, reason=err.reason)
            raise
        signed = self._authority.sign(request.csr, spiffe_id, reason="join-token" if self._enrolment else "renewal")
        _log.info("certificate_signed", spiffe_id=str(spiffe_id), serial=signed.serial, reason=signed.reason)
        return self._response(signed)

    async def GetTrustBundle(
        self, request: identity_service_pb2.GetTrustBundleRequest, context: Any
    ) -> identity_service_pb2.GetTrustBundleResponse:
        return identity_service_pb2.GetTrustBundleResponse(
            trust_bundle=self._authority.bundle_pem, trust_domain=self._authority.trust_domain
        )

    def _by_token(self, request: identity_service_pb2.SignCertificateRequest, digest: bytes) -> SpiffeId:
        claims = self._tokens.redeem(request.join_token, service=request.service, key_digest=digest)
        return SpiffeId(self._authority.trust_domain, self._namespace, claims.service)

    def _by_certificate(self, request: identity_service_pb2.SignCertificateRequest, context: Any) -> SpiffeId:
        peer = peer_spiffe_id(context)
        if peer != SpiffeId(self._authority.trust_domain, self._namespace, request.service):
            raise PermissionDenied(
                f"{peer} cannot get a certificate for {request.service}.",
                reason="WRONG_SERVICE",
                field="service",
                fix="Ask for the service that the current certificate names.",
            )
        return peer

    def _response(self, signed: SignedCertificate) -> identity_service_pb2.SignCertificateResponse:
        expire, renew = Timestamp(), Timestamp()
        expire.FromDatetime(signed.expire_time)
        renew.FromDatetime(signed.renew_time)
        return identity_service_pb2.SignCertificateResponse(
            certificate_chain=signed.chain_pem,
            trust_bundle=self._authority.bundle_pem,
            spiffe_id=str(signed.spiffe_id),
            expire_time=expire,
            renew_time=renew,
        )


RESERVED = frozenset({CONTROL_PLANE})
"""Services for which no join token is made: their certificates never leave the control plane."""
