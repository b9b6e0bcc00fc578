"""Wires the bridge."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from agentmesh.mcp.v1 import mcp_bridge_service_pb2, mcp_bridge_service_pb2_grpc
from mesh.errors import MeshError
from mesh.mcp import (
    LinkPeer,
    LinkServer,
    McpBridgeServicer,
    RequestServer,
    Upstream,
    Wire,
    check_command,
    open_session_pool,
    open_stdio_peer,
    open_stdio_wire,
)
from mesh.mcp.faults import leaf_of
from mesh.rpc import ServerSettings, Service, open_server
from mesh.runtime import Backoff, ChildSpec, Stop
from services.mcp_bridge.settings import BridgeSettings

_FIRST_ATTEMPTS = 3
"""Starts of a command that may fail before the first good one: each of the two eras of the protocol gets its chance."""

OpenWire = Callable[[], AbstractAsyncContextManager[Wire]]
OpenPeer = Callable[[], AbstractAsyncContextManager[LinkPeer]]


async def run(settings: BridgeSettings, stop: Stop) -> None:
    """Serve until `stop` is set. Raises MeshError when the command, the URL or the address is not usable."""
    open_wire, open_peer = _transports(settings)
    draining = asyncio.Event()
    upstream = Upstream(
        settings.service,
        open_wire,
        backoff=Backoff(0.1, 15.0),
        start_timeout=settings.start_timeout,
        # A command that never gets anywhere is a mistake to be told at once; a server elsewhere may just be late.
        first_attempts=None if settings.url else _FIRST_ATTEMPTS,
    )
    links = LinkServer(
        settings.service,
        open_peer,
        draining=draining,
        max_links=settings.max_links,
        max_frame_bytes=settings.max_frame_bytes,
    )
    server_settings = ServerSettings(
        service=settings.service, listen=settings.listen, max_concurrent=settings.max_concurrent
    )
    try:
        # The MCP server and its sessions outlive the gRPC server, so that calls in flight finish while it drains.
        async with asyncio.TaskGroup() as tasks, _open_requests(settings, upstream, open_peer, draining) as requests:
            servicer = McpBridgeServicer(
                upstream, links, requests, draining=draining, max_frame_bytes=settings.max_frame_bytes
            )
            service = Service(
                mcp_bridge_service_pb2.DESCRIPTOR.services_by_name["McpBridgeService"],
                lambda server: mcp_bridge_service_pb2_grpc.add_McpBridgeServiceServicer_to_server(servicer, server),
            )
            async with open_server(server_settings, [service]) as server:
                supervisor = tasks.create_task(upstream.run(server.set_serving))
                await stop.wait()
                draining.set()
            supervisor.cancel()
    except BaseExceptionGroup as group:
        error = leaf_of(group)
        if isinstance(error, MeshError):
            raise error from group
        raise


@asynccontextmanager
async def _open_requests(
    settings: BridgeSettings, upstream: Upstream, open_peer: OpenPeer, draining: asyncio.Event
) -> AsyncIterator[RequestServer]:
    """Keep the sessions that Ask and Dialog use."""
    async with open_session_pool(
        settings.service,
        open_peer,
        max_frame_bytes=settings.max_frame_bytes,
        max_sessions=settings.max_sessions,
        idle_seconds=settings.session_idle_seconds,
        start_timeout=settings.start_timeout,
    ) as pool:
        yield RequestServer(upstream, pool, draining=draining, max_frame_bytes=settings.max_frame_bytes)


def _transports(settings: BridgeSettings) -> tuple[OpenWire, OpenPeer]:
    """Choose how the MCP server is reached, for the shared connection and for links."""
    limit = settings.max_frame_bytes
    if settings.url:
        # Imported here: an HTTP client costs memory that a bridge to a child process need not pay.
        from mesh.mcp.link_http import open_http_peer
        from mesh.mcp.streamable_http import HttpServer, check_url, open_http_wire

        check_url(settings.url)
        server = HttpServer(settings.url, headers=settings.headers, max_frame_bytes=limit)
        return lambda: open_http_wire(server), lambda: open_http_peer(server, settings.service)
    check_command(settings.command)
    spec = ChildSpec(
        settings.service,
        settings.command,
        pipe_stdio=True,
        memory_bytes=settings.max_memory_mb << 20,
        cpu_seconds=settings.max_cpu_seconds,
    )
    return (
        lambda: open_stdio_wire(spec, max_frame_bytes=limit),
        lambda: open_stdio_peer(spec, max_frame_bytes=limit),
    )
