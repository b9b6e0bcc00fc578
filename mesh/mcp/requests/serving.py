"""Serves Ask: a request of the modern era, to a server of either."""

import asyncio
from typing import Any

import grpc.aio

from agentmesh.mcp.v1 import mcp_bridge_service_pb2 as pb
from mesh.errors import InvalidInput
from mesh.mcp.connection import Connection
from mesh.mcp.negotiate import Era
from mesh.mcp.requests.exchange import Outcome, Request, parse_request
from mesh.mcp.requests.old_era import (
    DISCOVER,
    LISTEN,
    discovery,
    is_unknown,
    to_modern_outcome,
    to_old_request,
    unknown_method,
)
from mesh.mcp.requests.pool import SessionPool
from mesh.mcp.requests.session import key_of
from mesh.mcp.upstream import Upstream
from mesh.rpc import call_context

ASK_TIMEOUT = 60.0
"""Seconds for an Ask that has no deadline of its own."""

_Context = grpc.aio.ServicerContext[Any, Any]


class RequestServer:
    """Carries requests to the one server behind the bridge: over the shared connection, or in sessions."""

    def __init__(self, upstream: Upstream, pool: SessionPool, *, max_frame_bytes: int) -> None:
        self._upstream = upstream
        self._pool = pool
        self._max_frame_bytes = max_frame_bytes

    async def ask(self, asked: pb.AskRequest, context: _Context) -> pb.AskResponse:
        """Answer an Ask."""
        request = parse_request(asked.method, asked.params, max_bytes=self._max_frame_bytes)
        if request.method == LISTEN:
            raise InvalidInput(f"{LISTEN} does not end with an answer.", field="method", fix="Use Dialog.")
        loop = asyncio.get_running_loop()
        remaining = context.time_remaining()
        left = ASK_TIMEOUT if remaining is None else max(remaining, 0.001)
        ends = loop.time() + left
        # A little less than the call has, so that its caller still learns why there was no server.
        connection = await self._upstream.connection(wait=0.9 * left)
        if connection.era is Era.MODERN:
            outcome = await connection.ask(request, timeout=max(ends - loop.time(), 0.001))
        else:
            outcome = await self._ask_old(connection, request, asked.session_key, ends)
        return outcome_to_proto(to_modern_outcome(request, outcome))

    async def _ask_old(self, connection: Connection, request: Request, session_key: str, ends: float) -> Outcome:
        if request.method == DISCOVER:
            return discovery(connection.hello)
        if is_unknown(request.method):
            return unknown_method(request.method)
        key = key_of(_caller(), session_key, request)
        async with self._pool.lease(key, request) as session:
            left = max(ends - asyncio.get_running_loop().time(), 0.001)
            return await session.ask(to_old_request(request), timeout=left)


def outcome_to_proto(outcome: Outcome) -> pb.AskResponse:
    """Convert an outcome."""
    if outcome.error:
        return pb.AskResponse(error=outcome.error)
    return pb.AskResponse(result=outcome.result)


def _caller() -> str:
    caller = call_context().caller
    return "" if caller is None else str(caller)
