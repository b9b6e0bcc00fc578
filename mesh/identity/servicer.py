"""IdentityService, as the enrolment port and as the control port serve it."""

import asyncio
from datetime import timedelta
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from agentmesh.identity.v1 import identity_service_pb2, identity_service_pb2_grpc
from mesh.errors import InvalidInput, MeshError, PermissionDenied, Unauthenticated
from mesh.identity.authority import WORKLOAD_LIFETIME, CertificateAuthority, SignedCertificate
from mesh.identity.csr import CertificateRequest, check_names, read_csr
from mesh.identity.tokens import JoinTokens, check_not_reserved
from mesh.model import SpiffeId, check_service_name
from mesh.telemetry import get_logger

_log = get_logger(__name__)


def peer_spiffe_id(context: Any) -> SpiffeId:
    """Who the caller is by the certificate of its TLS connection; raises Unauthenticated when there is none."""
    found: list[bytes] = list(context.auth_context().get("peer_spiffe_id") or ())
    try:
        # A certificate of the mesh has exactly one; several must not add up to one.
        return SpiffeId.parse(found[0].decode() if len(found) == 1 else "")
    except (UnicodeDecodeError, InvalidInput) as err:
        raise Unauthenticated(
            "The connection shows no identity of this mesh.",
            reason="NO_PEER_IDENTITY",
            fix="Connect with the certificate that the mesh has issued.",
        ) from err


class IdentityServicer(identity_service_pb2_grpc.IdentityServiceServicer):
    """Signs for a join token (`enrolment`) or for the caller's current certificate."""

    def __init__(
        self,
        authority: CertificateAuthority,
        tokens: JoinTokens,
        namespace: str,
        *,
        enrolment: bool,
        lifetime: timedelta = WORKLOAD_LIFETIME,
    ) -> None:
        self._authority = authority
        self._tokens = tokens
        self._namespace = namespace
        self._enrolment = enrolment
        self._lifetime = lifetime

    async def SignCertificate(
        self, request: identity_service_pb2.SignCertificateRequest, context: Any
    ) -> identity_service_pb2.SignCertificateResponse:
        check_service_name(request.service)
        try:
            signed = await self._sign(request, context)
        except MeshError as err:
            _log.warning("certificate_refused", for_service=request.service, reason=err.reason)
            raise
        _log.info("certificate_signed", spiffe_id=str(signed.spiffe_id), serial=signed.serial, reason=signed.reason)
        return self._response(signed)

    async def GetTrustBundle(
        self, request: identity_service_pb2.GetTrustBundleRequest, context: Any
    ) -> identity_service_pb2.GetTrustBundleResponse:
        return identity_service_pb2.GetTrustBundleResponse(
            trust_bundle=self._authority.bundle_pem, trust_domain=self._authority.trust_domain
        )

    async def _sign(self, request: identity_service_pb2.SignCertificateRequest, context: Any) -> SignedCertificate:
        check_not_reserved(request.service)
        spiffe_id = SpiffeId(self._authority.trust_domain, self._namespace, request.service)
        csr = read_csr(request.csr)
        # Before the token is used up: a request that is refused must not cost one.
        check_names(csr, spiffe_id)
        if self._enrolment:
            await self._check_token(request, csr)
        else:
            self._check_peer(spiffe_id, context)
        reason = "join-token" if self._enrolment else "renewal"
        # The DNS name is for gRPC clients, which verify no SPIFFE ids: the health checks of the embedded registry.
        return self._authority.sign(
            request.csr, spiffe_id, reason=reason, lifetime=self._lifetime, dns_names=(f"{request.service}.mesh",)
        )

    async def _check_token(self, request: identity_service_pb2.SignCertificateRequest, csr: CertificateRequest) -> None:
        # In a thread: it waits for the disk, and perhaps for another control plane on the same folder.
        await asyncio.to_thread(
            self._tokens.redeem, request.join_token, service=request.service, key_digest=csr.key_digest
        )

    def _check_peer(self, spiffe_id: SpiffeId, context: Any) -> None:
        peer = peer_spiffe_id(context)
        if peer != spiffe_id:
            raise PermissionDenied(
                f"{peer} cannot get a certificate for {spiffe_id.service}.",
                reason="WRONG_SERVICE",
                field="service",
                fix="Ask for the service that the current certificate names.",
            )

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
