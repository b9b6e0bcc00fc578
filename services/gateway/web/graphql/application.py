"""The schema over HTTP and WebSockets, https://graphql.github.io/graphql-over-http/draft/; no page to try it out."""

import json
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any

from cross_web import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket
from strawberry.asgi import ASGIWebSocketAdapter, GraphQL
from strawberry.http.exceptions import NonJsonMessageReceived
from strawberry.subscriptions import GRAPHQL_SSE_PROTOCOL, GRAPHQL_TRANSPORT_WS_PROTOCOL

from services.gateway.web.caller import caller_of
from services.gateway.web.graphql.reader import Sources
from services.gateway.web.graphql.schema import Connected, build_schema
from services.gateway.web.problems import build_problem

_MOST_OPERATIONS = 20
"""At once on one WebSocket."""
_INIT_SECONDS = 10
_LONGEST_ID = 200


class _CheckedSocket(ASGIWebSocketAdapter):
    """Refuses messages that are none of the protocol, which strawberry takes for granted."""

    async def iter_json(self, *, ignore_parsing_errors: bool = False) -> AsyncGenerator[object, None]:
        async for message in super().iter_json(ignore_parsing_errors=ignore_parsing_errors):
            if not _is_message(message):
                raise NonJsonMessageReceived
            yield message


class Application(GraphQL[Any, None]):
    """One for the gateway."""

    websocket_adapter_class = _CheckedSocket

    def __init__(self, sources: Sources) -> None:
        super().__init__(
            build_schema(),
            graphql_ide=None,
            subscription_protocols=[GRAPHQL_TRANSPORT_WS_PROTOCOL, GRAPHQL_SSE_PROTOCOL],
            connection_init_wait_timeout=timedelta(seconds=_INIT_SECONDS),
            max_subscriptions_per_connection=_MOST_OPERATIONS,
            # Our own door has looked at the origin.
            allowed_origins=["*"],
        )
        self._sources = sources

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As strawberry does it, but with our form of errors."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        request = Request(scope, receive)
        response: Response
        try:
            response = await self.run(request)
        except HTTPException as err:
            correlation_id = request.headers.get("x-correlation-id", "")
            response = build_problem(
                err.status_code, err.reason, reason="GRAPHQL_REQUEST", correlation_id=correlation_id
            )
        await response(scope, receive, send)

    async def get_context(self, request: Request | WebSocket, response: Response | WebSocket) -> Any:
        """What operations get to know who asks."""
        return Connected(self._sources, caller_of(request))

    async def get_sub_response(self, request: Request | WebSocket) -> Response:
        """What an answer has besides its content: it is for one caller, and of this moment."""
        made = await super().get_sub_response(request)
        made.headers["cache-control"] = "no-store"
        return made

    def should_render_graphql_ide(self, request: Any) -> bool:
        """Never; a GET without a query is told so."""
        return False

    def decode_json(self, data: str | bytes) -> object:
        """Raises JSONDecodeError for what is nested without end, too."""
        try:
            return json.loads(data)
        except RecursionError as err:
            raise json.JSONDecodeError("nested too deeply", "", 0) from err


def _is_message(message: object) -> bool:
    """Whether a message has the form of graphql-transport-ws.

    https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md
    """
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        return False
    identifier = message.get("id", "")
    if not isinstance(identifier, str) or len(identifier) > _LONGEST_ID:
        return False
    if message["type"] != "subscribe":
        return True
    payload = message.get("payload")
    return (
        isinstance(payload, dict)
        and isinstance(payload.get("query"), str)
        and isinstance(payload.get("variables"), dict | None)
        and isinstance(payload.get("operationName"), str | None)
    )
