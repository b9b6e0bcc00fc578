"""Serves Link: one MCP connection of its own for each stream, frames verbatim.

caller == LinkRequest ==> LinkServer == bytes ==> LinkPeer (a child process of its own, or a URL)
caller <= LinkResponse == LinkServer <== bytes == LinkPeer
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import grpc.aio

from agentmesh.mcp.v1 import mcp_bridge_service_pb2 as pb
from agentmesh.mcp.v1 import mcp_pb2
from mesh.errors import MeshError, ResourceExhausted, Unavailable
from mesh.mcp.frames import DEFAULT_MAX_FRAME_BYTES, BadFrame, build_error_frame, parse_frame

DEFAULT_MAX_LINKS = 32

_DRAIN_SECONDS = 5.0
_Context = grpc.aio.ServicerContext[Any, Any]


class LinkPeer(Protocol):
    """A server's end of a Link."""

    async def send(self, frame: bytes, parsed: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        """Give the server a frame; `parsed` is what it says. Raises Unavailable when the server is gone."""
        ...

    async def close_send(self) -> None:
        """Tell the server that the caller has nothing more to say."""
        ...

    async def receive(self) -> tuple[bytes, Mapping[str, str]] | None:
        """Wait for the server's next frame and its headers; None when it has ended."""
        ...

    async def explain(self) -> str:
        """Tell a person why the server has ended."""
        ...


OpenPeer = Callable[[], AbstractAsyncContextManager[LinkPeer]]


class LinkServer:
    """Connects Link streams to servers of their own, `max_links` at a time."""

    def __init__(
        self,
        server: str,
        open_peer: OpenPeer,
        *,
        draining: asyncio.Event,
        max_links: int = DEFAULT_MAX_LINKS,
        max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES,
    ) -> None:
        self._server = server
        self._open_peer = open_peer
        self._draining = draining
        self._max_links = max_links
        self._max_frame_bytes = max_frame_bytes
        self._open = 0

    async def serve(self, requests: AsyncIterator[pb.LinkRequest], context: _Context) -> None:
        """Carry one stream until the caller closes it; the server started for it is gone afterwards.

        Raises ResourceExhausted when there are too many, Unavailable when the server ends or the bridge drains.
        """
        if self._open >= self._max_links:
            raise ResourceExhausted(
                f"All {self._max_links} links to MCP server {self._server!r} are in use.",
                reason="MCP_TOO_MANY_LINKS",
                fix="Close links that are idle, or raise the bridge's --max-links.",
            )
        self._open += 1
        try:
            async with self._open_peer() as peer:
                failure = await _Stream(self._server, peer, context, self._max_frame_bytes).run(
                    requests, self._draining
                )
        finally:
            self._open -= 1
        if failure is not None:
            raise failure


class _Stream:
    """One Link while it runs."""

    def __init__(self, server: str, peer: LinkPeer, context: _Context, max_frame_bytes: int) -> None:
        self._server = server
        self._peer = peer
        self._context = context
        self._max_frame_bytes = max_frame_bytes
        self._write_lock = asyncio.Lock()

    async def run(self, requests: AsyncIterator[pb.LinkRequest], draining: asyncio.Event) -> MeshError | None:
        """Carry frames in both directions; return the error that ended it, or None when the caller did."""
        async with asyncio.TaskGroup() as tasks:
            up = tasks.create_task(self._carry_up(requests))
            down = tasks.create_task(self._carry_down())
            drain = tasks.create_task(draining.wait())
            try:
                await asyncio.wait({up, down, drain}, return_when=asyncio.FIRST_COMPLETED)
                if drain.done():
                    return Unavailable("The bridge is shutting down.", fix="Open the link again.")
                if up.done() and up.result() is None:
                    # The caller has said everything; what the server still answers is carried for a moment.
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_DRAIN_SECONDS):
                            await self._peer.close_send()
                            await asyncio.wait({down, drain}, return_when=asyncio.FIRST_COMPLETED)
                    return None
                # What it still said before it went is not lost.
                await asyncio.wait({down}, timeout=1.0)
                return Unavailable(
                    f"MCP server {self._server!r} is gone: {await self._peer.explain()}.",
                    reason="MCP_SERVER_LOST",
                    fix="Open the link again; it starts a new server.",
                )
            finally:
                for task in (up, down, drain):
                    task.cancel()

    async def _carry_up(self, requests: AsyncIterator[pb.LinkRequest]) -> MeshError | None:
        async for request in requests:
            frame = request.frame
            try:
                parsed = parse_frame(frame.message, max_bytes=self._max_frame_bytes)
            except BadFrame as bad:
                await self._write(build_error_frame(bad.code, str(bad), bad.request_id), {})
                continue
            try:
                await self._peer.send(frame.message, parsed, frame.headers)
            except MeshError as err:
                return err
        return None

    async def _carry_down(self) -> None:
        while (received := await self._peer.receive()) is not None:
            await self._write(*received)

    async def _write(self, message: bytes, headers: Mapping[str, str]) -> None:
        # Both directions write: a stream takes one write at a time.
        async with self._write_lock:
            await self._context.write(pb.LinkResponse(frame=mcp_pb2.Frame(message=message, headers=headers)))
