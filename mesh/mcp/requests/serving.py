"""Serves Ask and Dialog: requests of the modern era, to a server of either."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any, get_args

import grpc.aio

from agentmesh.mcp.v1 import mcp_bridge_service_pb2 as pb
from mesh.errors import InvalidInput, MeshError, Unavailable
from mesh.mcp.calls import QuietCall
from mesh.mcp.changes import ListChanged, ListKind
from mesh.mcp.connection import Connection
from mesh.mcp.negotiate import Era
from mesh.mcp.requests.dialog import Dialog
from mesh.mcp.requests.exchange import Outcome, Request, parse_request
from mesh.mcp.requests.listening import listen
from mesh.mcp.requests.old_era import (
    DISCOVER,
    LISTEN,
    discovery,
    is_unknown,
    to_modern_outcome,
    to_old_request,
    unknown_method,
    without_subscription,
)
from mesh.mcp.requests.pool import SessionPool
from mesh.mcp.requests.session import key_of
from mesh.mcp.upstream import Upstream
from mesh.rpc import call_context
from mesh.telemetry import get_logger

ASK_TIMEOUT = 60.0
"""Seconds for an Ask that has no deadline of its own."""

_END_SECONDS = 1.0

DIALOG_TIMEOUT = 24 * 3600.0
"""Seconds for a Dialog that has no deadline of its own."""

_log = get_logger(__name__)
_Context = grpc.aio.ServicerContext[Any, Any]
_Left = Callable[[], float]


class RequestServer:
    """Carries requests to the one server behind the bridge: over the shared connection, or in sessions.

    `draining` ends dialogs that only listen.
    """

    def __init__(self, upstream: Upstream, pool: SessionPool, *, draining: asyncio.Event, max_frame_bytes: int) -> None:
        self._upstream = upstream
        self._pool = pool
        self._draining = draining
        self._max_frame_bytes = max_frame_bytes
        pool.on_change = self._publish_change

    async def ask(self, asked: pb.AskRequest, context: _Context) -> pb.AskResponse:
        """Answer an Ask."""
        request = parse_request(asked.method, asked.params, max_bytes=self._max_frame_bytes)
        if request.method == LISTEN:
            raise InvalidInput(f"{LISTEN} does not end with an answer.", field="method", fix="Use Dialog.")
        connection, left = await self._connect(context, ASK_TIMEOUT)
        if connection.era is Era.MODERN:
            call = QuietCall(f"{_caller()} {asked.session_key}")
            outcome = await connection.ask(request, call, timeout=left())
        else:
            outcome = await self._ask_old(connection, request, asked.session_key, None, left)
        return _outcome_to_proto(to_modern_outcome(request, outcome))

    async def serve_dialog(self, messages: AsyncIterator[pb.DialogRequest], context: _Context) -> None:
        """Carry a Dialog to its end."""
        first = await anext(messages, None)
        if first is None or first.WhichOneof("message") != "request":
            raise InvalidInput("A dialog begins with its request.", field="request")
        asked = first.request
        request = parse_request(asked.method, asked.params, max_bytes=self._max_frame_bytes)
        connection, left = await self._connect(context, DIALOG_TIMEOUT)
        dialog = Dialog(f"{_caller()} {asked.session_key}", request.log_level)
        failures: list[MeshError] = []
        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(self._run(connection, request, asked.session_key, dialog, left, failures))
            answering = tasks.create_task(_take_answers(dialog, messages, asking, failures))
            try:
                while (said := await dialog.next()) is not None:
                    await context.write(said)
                if not failures:
                    outcome = await asking
                    await context.write(pb.DialogResponse(outcome=_outcome_to_proto(outcome)))
                    # A stream that ends before its caller has ended it is reset, and connections with many resets are
                    # closed by those on the way.
                    await asyncio.wait({answering}, timeout=_END_SECONDS)
                    failures.clear()
            finally:
                answering.cancel()
                # Where the caller has gone, what it asked is given up.
                asking.cancel()
        if dialog.dropped:
            _log.warning("mcp_notifications_dropped", method=request.method, dropped=dialog.dropped)
        if failures:
            raise failures[0]

    async def _run(
        self,
        connection: Connection,
        request: Request,
        session_key: str,
        dialog: Dialog,
        left: _Left,
        failures: list[MeshError],
    ) -> Outcome:
        """Let a dialog's request run; its failure is noted, since a task group would wrap it."""
        try:
            if request.method == LISTEN:
                return await self._listen(connection, request, dialog, left)
            if connection.era is Era.MODERN:
                outcome = await connection.ask(request, dialog, dialog, timeout=left())
            else:
                outcome = await self._ask_old(connection, request, session_key, dialog, left)
            return to_modern_outcome(request, outcome)
        except MeshError as err:
            failures.append(err)
            return Outcome()
        finally:
            dialog.close()

    async def _listen(self, connection: Connection, request: Request, dialog: Dialog, left: _Left) -> Outcome:
        """Listen until the server or the caller has enough, or the bridge drains."""
        draining = asyncio.ensure_future(self._draining.wait())
        if connection.era is Era.MODERN:
            listening: asyncio.Future[Any] = asyncio.ensure_future(
                connection.ask(request, dialog, dialog, timeout=left())
            )
        else:
            listening = asyncio.ensure_future(listen(connection, request, dialog))
        try:
            await asyncio.wait({listening, draining}, return_when=asyncio.FIRST_COMPLETED)
            if not listening.done():
                raise Unavailable("The bridge is shutting down.", fix="Listen again; another instance answers.")
            return without_subscription(to_modern_outcome(request, listening.result()))
        finally:
            draining.cancel()
            listening.cancel()
            with suppress(asyncio.CancelledError, MeshError):
                await listening

    async def _ask_old(
        self, connection: Connection, request: Request, session_key: str, dialog: Dialog | None, left: _Left
    ) -> Outcome:
        if request.method == DISCOVER:
            return discovery(connection.hello)
        if is_unknown(request.method):
            return unknown_method(request.method)
        key = key_of(_caller(), session_key, request)
        async with self._pool.lease(key, request, is_dialog=dialog is not None) as session:
            if dialog is None:
                return await session.ask(to_old_request(request), timeout=left())
            if dialog.log_level is not None:
                await session.want_logs(dialog.log_level)
            dialog.attach(session, can_be_asked=key.can_be_asked)
            try:
                return await session.ask(to_old_request(request), dialog, timeout=left())
            finally:
                await dialog.detach(session)

    async def _connect(self, context: _Context, default: float) -> tuple[Connection, _Left]:
        """Return the connection, and a function that tells how many seconds the call still has."""
        now = asyncio.get_running_loop().time
        remaining = context.time_remaining()
        ends = now() + (default if remaining is None else remaining)
        # A little less than the call has, so that its caller still learns why there was no server.
        connection = await self._upstream.connection(wait=max(0.9 * (ends - now()), 0.001))
        return connection, lambda: max(ends - now(), 0.001)

    def _publish_change(self, method: str) -> None:
        """Tell those who listen that a list has changed, whichever session the server told it to."""
        connection = self._upstream.current
        kind = method.removeprefix("notifications/").removesuffix("/list_changed")
        for known in get_args(ListKind):
            if connection is not None and kind == known:
                connection.feed.publish(ListChanged(known))


async def _take_answers(
    dialog: Dialog, messages: AsyncIterator[pb.DialogRequest], asking: asyncio.Task[Outcome], failures: list[MeshError]
) -> None:
    try:
        await dialog.take_answers(messages)
    except MeshError as err:
        failures.append(err)
        asking.cancel()


def _outcome_to_proto(outcome: Outcome) -> pb.AskResponse:
    if outcome.error:
        return pb.AskResponse(error=outcome.error)
    return pb.AskResponse(result=outcome.result)


def _caller() -> str:
    caller = call_context().caller
    return "" if caller is None else str(caller)
