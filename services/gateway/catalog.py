"""CatalogService: what there is in the mesh, told to each caller as far as it may call it."""

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence

import grpc

from agentmesh.control.v1 import control_pb2
from agentmesh.gateway.v1 import catalog_service_pb2 as pb
from agentmesh.gateway.v1 import catalog_service_pb2_grpc
from mesh.access import ANONYMOUS, Principal, may_see
from mesh.errors import InvalidInput, NotFound
from mesh.rpc import Service, call_context
from services.gateway.knowledge import Knowledge
from services.gateway.web.caller import principal_of

_PAGE = 50
_MOST_PAGE = 1000
_PAUSE = 0.1
"""Seconds in which changes are gathered."""


def visible_services(knowledge: Knowledge, principal: Principal) -> list[control_pb2.Service]:
    """The services that a principal may call anything of, sorted by name."""
    view = knowledge.view
    if view is None:
        return []
    return [service for service in knowledge.mesh.services if may_see(view.rules, principal, service.name)]


class CatalogServicer(catalog_service_pb2_grpc.CatalogServiceServicer):
    """Answers from what the gateway knows. `draining` ends the streams."""

    def __init__(self, knowledge: Knowledge) -> None:
        self._knowledge = knowledge
        self.draining = asyncio.Event()

    async def ListServices(
        self, request: pb.ListServicesRequest, context: grpc.ServicerContext
    ) -> pb.ListServicesResponse:
        if request.page_size > _MOST_PAGE:
            raise InvalidInput("The page is too long.", field="page_size", fix=f"Ask for at most {_MOST_PAGE}.")
        found = [it for it in self._visible() if not request.kind or it.kind == request.kind]
        page, token = take_page(found, request.page_size or _PAGE, request.page_token)
        return pb.ListServicesResponse(services=page, next_page_token=token)

    async def GetService(self, request: pb.GetServiceRequest, context: grpc.ServicerContext) -> pb.GetServiceResponse:
        for service in self._visible():
            if service.name == request.name:
                return pb.GetServiceResponse(service=service)
        raise NotFound(
            f"There is no service {request.name[:80]!r} that you may call.",
            reason="UNKNOWN_SERVICE",
            field="name",
            fix="ListServices has those that there are.",
        )

    async def WatchServices(
        self, request: pb.WatchServicesRequest, context: grpc.ServicerContext
    ) -> AsyncIterator[pb.WatchServicesResponse]:
        seen: list[control_pb2.Service] | None = None
        draining = asyncio.ensure_future(self.draining.wait())
        changes = aiter(self._knowledge.watch())
        try:
            while True:
                change = asyncio.ensure_future(anext(changes))
                await asyncio.wait((draining, change), return_when=asyncio.FIRST_COMPLETED)
                if draining.done():
                    change.cancel()
                    return
                visible = self._visible()
                if visible != seen:
                    seen = visible
                    yield pb.WatchServicesResponse(services=visible)
                await asyncio.sleep(_PAUSE)
        finally:
            draining.cancel()

    def _visible(self) -> list[control_pb2.Service]:
        token = call_context().user_token
        return visible_services(self._knowledge, principal_of(token) if token else ANONYMOUS)


def take_page(
    services: Sequence[control_pb2.Service], size: int, token: str
) -> tuple[Sequence[control_pb2.Service], str]:
    """A page of services that are sorted by name, and the token of the next one, "" when there is none.

    A token is the last name of the page before, so that what comes and goes meanwhile moves nothing.
    """
    try:
        after = base64.urlsafe_b64decode(token.encode()).decode() if token else ""
    except (ValueError, UnicodeError) as err:
        raise InvalidInput(
            "This is no token of a page.", field="page_token", fix="Send the one you were given."
        ) from err
    rest = [service for service in services if service.name > after]
    page = rest[:size]
    more = len(rest) > size
    return page, base64.urlsafe_b64encode(page[-1].name.encode()).decode() if more else ""


def catalog_service(servicer: CatalogServicer) -> Service:
    """CatalogService for the gateway's socket."""
    return Service(
        pb.DESCRIPTOR.services_by_name["CatalogService"],
        lambda server: catalog_service_pb2_grpc.add_CatalogServiceServicer_to_server(servicer, server),
    )
