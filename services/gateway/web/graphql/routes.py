"""The door. strawberry is imported at the first request: a gateway without GraphQL does not need its 10 MB."""

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from mesh.access import Principal
from mesh.errors import PermissionDenied
from mesh.telemetry import correlation_id
from services.gateway.channels import Channels
from services.gateway.knowledge import Knowledge
from services.gateway.web.bodies import read_body, read_json
from services.gateway.web.caller import caller_of
from services.gateway.web.events import EventHub
from services.gateway.web.graphql.members import Members
from services.gateway.web.graphql.reader import Sources
from services.gateway.web.graphql.streams import Streams, Times
from services.gateway.web.origins import check_origin
from services.gateway.web.problems import build_problem

_LONGEST = 256 << 10
_POLICY = 1008
_JSON = "application/json"


class GraphQLDoor:
    """/graphql: queries by POST and GET, subscriptions by SSE and WebSocket.

    `gateway` is the stub of GatewayService, `sign` makes the token that tells services on whose behalf they are asked.
    """

    def __init__(
        self,
        knowledge: Knowledge,
        hub: EventHub,
        gateway: Any,
        channels: Channels,
        sign: Callable[[Principal], str],
        *,
        times: Times | None = None,
    ) -> None:
        self._knowledge = knowledge
        self._streams = Streams(times)
        self._sources = Sources(knowledge, hub, Members(channels, gateway), self._streams, sign)
        self._app: ASGIApp | None = None
        self._making = asyncio.Lock()

    @property
    def routes(self) -> list[BaseRoute]:
        """For the web doors."""
        return [Route("/graphql", self, methods=["GET", "POST"]), WebSocketRoute("/graphql", self)]

    def end_streams(self) -> None:
        """End all subscriptions, and take no more."""
        self._streams.stopping.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, as ASGI has it."""
        if scope["type"] == "websocket":
            socket, view = WebSocket(scope, receive, send), self._knowledge.view
            correlation_id.set(caller_of(socket).correlation_id)
            try:
                check_origin(socket, view.edge.cors.origins if view is not None else ())
            except PermissionDenied as err:
                await socket.close(_POLICY, err.reason)
                return
        else:
            request = Request(scope, receive)
            correlation_id.set(caller_of(request).correlation_id)
            if scope["method"] == "POST":
                if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _JSON:
                    problem = build_problem(415, "The body is of another type.", reason="NO_JSON", fix=f"Send {_JSON}.")
                    await problem(scope, receive, send)
                    return
                body = await read_body(request, _LONGEST)
                # strawberry takes it that there is an object.
                read_json(body)
                receive = _again(body, receive)
        app = self._app or await self._make()
        await app(scope, receive, send)

    async def _make(self) -> ASGIApp:
        async with self._making:
            if self._app is None:
                self._app = await asyncio.to_thread(_import, self._sources)
            return self._app


def _import(sources: Sources) -> ASGIApp:
    from services.gateway.web.graphql.application import Application

    return Application(sources)


def _again(body: bytes, receive: Receive) -> Receive:
    """A body that has been read, once more, and then whatever comes: answers that last wait for the client to go."""
    has_come = False

    async def receive_again() -> Message:
        nonlocal has_come
        if has_come:
            return await receive()
        has_come = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again
