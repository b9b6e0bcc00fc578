"""CatalogService: what there is in the mesh, told to each caller as far as it may call it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from agentmesh.control.v1 import control_pb2
from agentmesh.gateway.v1 import catalog_service_pb2 as pb
from agentmesh.gateway.v1 import catalog_service_pb2_grpc
from mesh.errors import InvalidInput
from mesh.rpc import Service, call_context
from services.gateway.cursors import build_cursor, parse_cursor, take_after
from services.gateway.knowledge import Knowledge
from services.gateway.viewer import Viewer
from services.gateway.web.caller import principal_of

_PAGE = 50
_MOST_PAGE = 1000
_PAUSE = 0.1
"""Seconds in which changes are gathered."""
_LOOK_AGAIN = 30.0
"""Seconds after which it is looked at whether the caller's credential still counts."""


class CatalogServicer(catalog_service_pb2_grpc.CatalogServiceServicer):
    """Answers from what the gateway knows. `draining` ends the streams."""

    def __init__(self, knowledge: Knowledge, *, look_again: float = _LOOK_AGAIN) -> None:
        self._knowledge = knowledge
        self._look_again = look_again
        self.draining = asyncio.Event()

    async def ListServices(
        self, request: pb.ListServicesRequest, context: grpc.ServicerContext
    ) -> pb.ListServicesResponse:
        if request.page_size > _MOST_PAGE:
            raise InvalidInput("The page is too long.", field="page_size", fix=f"Ask for at most {_MOST_PAGE}.")
        after = parse_cursor(request.page_token, "page_token") if request.page_token else ""
        found = self._viewer().services(request.kind)
        page, has_more = take_after(found, after, lambda service: service.name, request.page_size or _PAGE)
        return pb.ListServicesResponse(
            services=page, next_page_token=build_cursor(page[-1].name) if has_more and page else ""
        )

    async def GetService(self, request: pb.GetServiceRequest, context: grpc.ServicerContext) -> pb.GetServiceResponse:
        return pb.GetServiceResponse(service=self._viewer().service(request.name))

    async def WatchServices(  # type: ignore[override]
        self, request: pb.WatchServicesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        viewer = self._viewer()
        told: list[control_pb2.Service] | None = None
        draining = asyncio.ensure_future(self.draining.wait())
        try:
            while not draining.done():
                changes = self._knowledge.watch()
                while await _comes_first(changes, draining, self._look_again):
                    visible = viewer.services()
                    if visible != told:
                        told = visible
                        await context.write(pb.WatchServicesResponse(services=visible))
                    await asyncio.wait((draining,), timeout=_PAUSE)
                # Nothing has changed for long, or the server stops.
                viewer.principal()
        finally:
            draining.cancel()

    def _viewer(self) -> Viewer:
        return Viewer(self._knowledge, principal_of(call_context().user_token))


async def _comes_first(changes: AsyncIterator[None], ending: asyncio.Future[Any], timeout: float) -> bool:
    """Whether the next change comes before the end and in time; if not, there are no changes to be had any more."""
    change = asyncio.ensure_future(anext(changes))
    try:
        await asyncio.wait((ending, change), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        return change.done() and not ending.done()
    finally:
        change.cancel()


def catalog_service(servicer: CatalogServicer) -> Service:
    """CatalogService for the gateway's socket."""
    return Service(
        pb.DESCRIPTOR.services_by_name["CatalogService"],
        lambda server: catalog_service_pb2_grpc.add_CatalogServiceServicer_to_server(servicer, server),
    )
