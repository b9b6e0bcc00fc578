"""GatewayService: what gateways are told and what is done for them, on the control port."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

import grpc

from agentmesh.gateway.v1 import gateway_service_pb2 as pb
from agentmesh.gateway.v1 import gateway_service_pb2_grpc
from mesh.access.issuer import Issued, TokenIssuer
from mesh.config.history import RevisionStore
from mesh.errors import InvalidInput, PermissionDenied
from mesh.rpc import Service, call_context
from mesh.state import StateStore
from services.control_plane.access_keeper import AccessKeeper
from services.control_plane.config_codec import revision_to_proto
from services.control_plane.mesh_watch import watch_mesh

GATEWAY = "gateway"
_T = TypeVar("_T")
_PAGE = 50
_MOST_PAGE = 1000


class GatewayServicer(gateway_service_pb2_grpc.GatewayServiceServicer):
    """Answers gateways only: who calls follows from the certificate. `draining` ends the streams."""

    def __init__(
        self,
        store: StateStore,
        keeper: AccessKeeper,
        issuer: TokenIssuer,
        history: RevisionStore,
        draining: asyncio.Event,
    ) -> None:
        self._store = store
        self._keeper = keeper
        self._issuer = issuer
        self._history = history
        self._draining = draining

    async def WatchAccess(
        self, request: pb.WatchAccessRequest, context: grpc.ServicerContext
    ) -> AsyncIterator[pb.WatchAccessResponse]:
        self._check()
        seen = ""
        while (told := await self._unless_draining(self._keeper.next(seen))) is not None:
            seen = told.version
            yield told

    async def WatchMesh(
        self, request: pb.WatchMeshRequest, context: grpc.ServicerContext
    ) -> AsyncIterator[pb.WatchMeshResponse]:
        self._check()
        async for response in watch_mesh(self._store, self._draining):
            yield response

    async def ListRevisions(
        self, request: pb.ListRevisionsRequest, context: grpc.ServicerContext
    ) -> pb.ListRevisionsResponse:
        self._check()
        if request.page_size > _MOST_PAGE:
            raise InvalidInput("The page is too long.", field="page_size", fix=f"Ask for at most {_MOST_PAGE}.")
        head = await self._history.head()
        found = await self._history.list(before=request.before, count=request.page_size or _PAGE)
        return pb.ListRevisionsResponse(revisions=[revision_to_proto(revision, head) for revision in found])

    async def IssueToken(self, request: pb.IssueTokenRequest, context: grpc.ServicerContext) -> pb.IssueTokenResponse:
        self._check()
        issuer, client = self._issuer, request.client_address[:64]
        match request.WhichOneof("grant"):
            case "password":
                issued = await issuer.by_password(request.password.user, request.password.password, client)
            case "client":
                issued = await issuer.by_key(request.client.client_id, request.client.client_secret, client)
            case "refresh_token":
                issued = await issuer.by_refresh_token(request.refresh_token)
            case _:
                raise InvalidInput("It is not said what the token is for.", field="grant")
        return _to_proto(issued)

    async def RevokeToken(
        self, request: pb.RevokeTokenRequest, context: grpc.ServicerContext
    ) -> pb.RevokeTokenResponse:
        self._check()
        await self._issuer.revoke(request.refresh_token)
        self._keeper.refresh()
        return pb.RevokeTokenResponse()

    def _check(self) -> None:
        caller = call_context().caller
        declaration = self._store.current.declarations.get(caller.service) if caller is not None else None
        if declaration is None or declaration.kind != GATEWAY:
            raise PermissionDenied(
                f"{caller or 'A stranger'} is no gateway.",
                reason="NOT_A_GATEWAY",
                fix="Declare the service with kind gateway.",
            )

    async def _unless_draining(self, coming: Coroutine[Any, Any, _T]) -> _T | None:
        """What comes; None when the control plane stops first."""
        stop, upcoming = asyncio.ensure_future(self._draining.wait()), asyncio.ensure_future(coming)
        try:
            await asyncio.wait((stop, upcoming), return_when=asyncio.FIRST_COMPLETED)
            return upcoming.result() if upcoming.done() and not stop.done() else None
        finally:
            stop.cancel()
            upcoming.cancel()


def _to_proto(issued: Issued) -> pb.IssueTokenResponse:
    return pb.IssueTokenResponse(
        access_token=issued.access_token, expires_in=issued.expires_in, refresh_token=issued.refresh_token
    )


def gateway_service(servicer: GatewayServicer) -> Service:
    """GatewayService for the control port."""
    return Service(
        pb.DESCRIPTOR.services_by_name["GatewayService"],
        lambda server: gateway_service_pb2_grpc.add_GatewayServiceServicer_to_server(servicer, server),
    )
