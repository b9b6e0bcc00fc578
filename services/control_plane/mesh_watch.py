"""The mesh as gateways are told of it, whenever it changes."""

import asyncio
from collections.abc import AsyncIterator

from agentmesh.gateway.v1 import gateway_service_pb2 as pb
from mesh.state import MeshState, StateStore
from services.control_plane.control_service import services_to_proto

_PAUSE = 0.05
"""Seconds in which changes are gathered."""


async def watch_mesh(
    store: StateStore, draining: asyncio.Event, *, pause: float = _PAUSE
) -> AsyncIterator[pb.WatchMeshResponse]:
    """What there is, at once and after every change that shows, at most once in `pause` seconds; the newest counts.

    Ends when `draining` is set.
    """
    told: pb.WatchMeshResponse | None = None
    states = aiter(store.watch())
    stop = asyncio.ensure_future(draining.wait())
    upcoming = asyncio.ensure_future(_next(states))
    try:
        while True:
            await asyncio.wait((stop, upcoming), return_when=asyncio.FIRST_COMPLETED)
            if stop.done():
                return
            upcoming.result()
            # Not the one that was waited for: there may be a newer one by now.
            response = mesh_to_proto(store.current)
            if response != told:
                told = response
                yield response
            await asyncio.wait((stop,), timeout=pause)
            upcoming = asyncio.ensure_future(_next(states))
    finally:
        stop.cancel()
        upcoming.cancel()


def mesh_to_proto(state: MeshState) -> pb.WatchMeshResponse:
    """Services as ListServices tells them, and the document in force."""
    return pb.WatchMeshResponse(
        services=services_to_proto(state),
        revision=state.policy.revision,
        document_version=state.policy.version,
    )


async def _next(states: AsyncIterator[MeshState]) -> MeshState:
    return await anext(states)
