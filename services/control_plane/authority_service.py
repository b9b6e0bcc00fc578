"""AuthorityService, and the task that keeps the authority going."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from agentmesh.control.v1 import authority_service_pb2 as pb
from agentmesh.control.v1 import authority_service_pb2_grpc
from mesh.errors import MeshError
from mesh.identity import CertificateAuthority, next_of
from mesh.model import check_service_name
from mesh.rpc import Service
from mesh.state import StateStore
from mesh.telemetry import get_logger
from services.control_plane.reserved_names import check_revocable

_LOOK_SECONDS = 0.5
"""How often the folder is looked at for what another control plane has done."""

_log = get_logger(__name__)


class AuthorityServicer(authority_service_pb2_grpc.AuthorityServiceServicer):
    """Answers from the authority; `lifetime` is that of the certificates that it signs."""

    def __init__(self, authority: CertificateAuthority, store: StateStore, lifetime: timedelta) -> None:
        self._authority = authority
        self._store = store
        self._lifetime = lifetime

    async def GetAuthority(
        self, request: pb.GetAuthorityRequest, context: grpc.ServicerContext
    ) -> pb.GetAuthorityResponse:
        return pb.GetAuthorityResponse(authority=self._describe())

    async def RotateRoot(self, request: pb.RotateRootRequest, context: grpc.ServicerContext) -> pb.RotateRootResponse:
        await asyncio.to_thread(self._authority.start_rotation)
        return pb.RotateRootResponse(authority=self._describe())

    async def RevokeIdentity(
        self, request: pb.RevokeIdentityRequest, context: grpc.ServicerContext
    ) -> pb.RevokeIdentityResponse:
        check_revocable(request.service)
        await asyncio.to_thread(self._authority.revocations.revoke, request.service, self._authority.now())
        self._store.set_revoked(self._authority.revocations.services)
        _log.warning("identity_revoked", revoked=request.service)
        return pb.RevokeIdentityResponse()

    async def RestoreIdentity(
        self, request: pb.RestoreIdentityRequest, context: grpc.ServicerContext
    ) -> pb.RestoreIdentityResponse:
        check_service_name(request.service)
        await asyncio.to_thread(self._authority.revocations.restore, request.service)
        self._store.set_revoked(self._authority.revocations.services)
        _log.warning("identity_restored", restored=request.service)
        return pb.RestoreIdentityResponse()

    def _describe(self) -> pb.Authority:
        roots, revocations = self._authority.roots, self._authority.revocations
        return pb.Authority(
            stage=roots.stage.value,
            stage_time=_timestamp(roots.since),
            next=next_of(roots, self._lifetime),
            roots=[
                pb.RootCertificate(
                    fingerprint=root.fingerprint,
                    expire_time=_timestamp(root.certificate.not_valid_after_utc),
                    signs=root is roots.signer,
                )
                for root in roots.trusted
            ],
            revocations=[
                pb.Revocation(service=name, time=_timestamp(revocations.since(name)))
                for name in sorted(revocations.services)
            ],
        )


async def keep_authority(
    authority: CertificateAuthority, store: StateStore, lifetime: timedelta, *, leads: Callable[[], bool]
) -> None:
    """Take over what other control planes do to the authority, and let the rotation of the root go on, for ever.

    Only the one that leads lets it go on. What fails is logged once and tried again.
    """
    said = ""
    while True:
        try:
            await asyncio.to_thread(authority.reload)
            if leads():
                await asyncio.to_thread(authority.advance_rotation, lifetime)
            said = ""
        except MeshError as err:
            if str(err) != said:
                said = str(err)
                _log.error("authority_not_kept", error=said, reason=err.reason)
        store.set_revoked(authority.revocations.services)
        await asyncio.sleep(_LOOK_SECONDS)


def authority_service(authority: CertificateAuthority, store: StateStore, lifetime: timedelta) -> Service:
    """AuthorityService for an admin socket."""
    servicer = AuthorityServicer(authority, store, lifetime)
    return Service(
        pb.DESCRIPTOR.services_by_name["AuthorityService"],
        lambda server: authority_service_pb2_grpc.add_AuthorityServiceServicer_to_server(servicer, server),
    )


def _timestamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
