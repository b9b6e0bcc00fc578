"""AccessService: operators make keys and users, and take them away, on the admin socket."""

import asyncio
import time
from collections.abc import Callable

import grpc

from agentmesh.access.v1 import access_service_pb2 as pb
from agentmesh.access.v1 import access_service_pb2_grpc
from mesh.rpc import Service
from mesh.telemetry import get_logger
from services.control_plane.access_codec import key_to_proto, seconds_of, signing_to_proto, user_to_proto
from services.control_plane.access_keeper import AccessKeeper
from services.control_plane.config_access import Access

_log = get_logger(__name__)


class AccessServicer(access_service_pb2_grpc.AccessServiceServicer):
    """Answers from the stores; `access` tells who calls. What is done is logged, never with a secret."""

    def __init__(self, keeper: AccessKeeper, access: Access, *, clock: Callable[[], float] = time.time) -> None:
        self._keeper = keeper
        self._stores = keeper.stores
        self._access = access
        self._clock = clock

    async def CreateKey(self, request: pb.CreateKeyRequest, context: grpc.ServicerContext) -> pb.CreateKeyResponse:
        lifetime = seconds_of(request.lifetime) if request.HasField("lifetime") else None
        record, key = await asyncio.to_thread(
            self._stores.keys.create,
            label=request.label,
            roles=request.roles,
            lifetime=lifetime,
            creator=self._access(),
            now=self._clock(),
        )
        self._done("key_created", key=record.id, roles=",".join(record.roles))
        return pb.CreateKeyResponse(key=key_to_proto(record), secret=key.text)

    async def ListKeys(self, request: pb.ListKeysRequest, context: grpc.ServicerContext) -> pb.ListKeysResponse:
        self._access()
        return pb.ListKeysResponse(keys=[key_to_proto(record) for record in self._stores.keys.all()])

    async def RotateKey(self, request: pb.RotateKeyRequest, context: grpc.ServicerContext) -> pb.RotateKeyResponse:
        record, key = await asyncio.to_thread(
            self._stores.keys.rotate,
            request.id,
            grace=seconds_of(request.grace),
            creator=self._access(),
            now=self._clock(),
        )
        self._done("key_rotated", key=record.id, replaces=request.id)
        return pb.RotateKeyResponse(key=key_to_proto(record), secret=key.text)

    async def RevokeKey(self, request: pb.RevokeKeyRequest, context: grpc.ServicerContext) -> pb.RevokeKeyResponse:
        self._access()
        record = await asyncio.to_thread(self._stores.keys.revoke, request.id, now=self._clock())
        self._done("key_revoked", key=record.id)
        return pb.RevokeKeyResponse(key=key_to_proto(record))

    async def CreateUser(self, request: pb.CreateUserRequest, context: grpc.ServicerContext) -> pb.CreateUserResponse:
        self._access()
        record = await self._stores.users.create(request.name, request.password, request.roles, now=self._clock())
        self._done("user_created", user=record.name, roles=",".join(record.roles))
        return pb.CreateUserResponse(user=user_to_proto(record))

    async def ListUsers(self, request: pb.ListUsersRequest, context: grpc.ServicerContext) -> pb.ListUsersResponse:
        self._access()
        return pb.ListUsersResponse(users=[user_to_proto(record) for record in self._stores.users.all()])

    async def UpdateUser(self, request: pb.UpdateUserRequest, context: grpc.ServicerContext) -> pb.UpdateUserResponse:
        self._access()
        record = await self._stores.users.update(
            request.name,
            password=request.password if request.HasField("password") else None,
            roles=request.roles.names if request.HasField("roles") else None,
            disabled=request.disabled if request.HasField("disabled") else None,
        )
        if request.HasField("password") or record.disabled:
            # Whoever knew the old password must not go on.
            await asyncio.to_thread(self._stores.logins.end_all_of, record.name, now=self._clock())
        self._done("user_updated", user=record.name, disabled=record.disabled)
        return pb.UpdateUserResponse(user=user_to_proto(record))

    async def DeleteUser(self, request: pb.DeleteUserRequest, context: grpc.ServicerContext) -> pb.DeleteUserResponse:
        self._access()
        await asyncio.to_thread(self._stores.users.delete, request.name)
        await asyncio.to_thread(self._stores.logins.end_all_of, request.name, now=self._clock())
        self._done("user_deleted", user=request.name)
        return pb.DeleteUserResponse()

    async def ListSigningKeys(
        self, request: pb.ListSigningKeysRequest, context: grpc.ServicerContext
    ) -> pb.ListSigningKeysResponse:
        self._access()
        signer = self._stores.signing.signer(self._clock())
        keys = reversed(self._stores.signing.all())
        return pb.ListSigningKeysResponse(keys=[signing_to_proto(key, signer) for key in keys])

    async def RotateSigningKey(
        self, request: pb.RotateSigningKeyRequest, context: grpc.ServicerContext
    ) -> pb.RotateSigningKeyResponse:
        self._access()
        tokens, now = self._keeper.tokens, self._clock()
        made = await asyncio.to_thread(
            self._stores.signing.rotate,
            tokens.algorithm,
            now=now,
            token_life=tokens.access_lifetime.total_seconds(),
        )
        self._done("signing_key_rotated", key=made.id)
        return pb.RotateSigningKeyResponse(key=signing_to_proto(made, self._stores.signing.signer(now)))

    def _done(self, event: str, **facts: object) -> None:
        _log.warning(event, who=self._access(), **facts)
        self._keeper.refresh()


def access_service(keeper: AccessKeeper, access: Access) -> Service:
    """AccessService for an admin socket."""
    servicer = AccessServicer(keeper, access)
    return Service(
        pb.DESCRIPTOR.services_by_name["AccessService"],
        lambda server: access_service_pb2_grpc.add_AccessServiceServicer_to_server(servicer, server),
    )
