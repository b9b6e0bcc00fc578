"""The door. strawberry is imported at the first request: a gateway without GraphQL does not need its memory."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.requests import Request
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from mesh.errors import MeshError, PermissionDenied
from mesh.telemetry import get_logger
from services.gateway.knowledge import Knowledge
from services.gateway.web.bodies import read_body, read_json
from services.gateway.web.caller import caller_of
from services.gateway.web.events import EventHub
from services.gateway.web.origins import check_origin

_LONGEST = 256 << 10
_POLICY = 1008

_log = get_logger(__name__)

Door = Callable[[dict[str, Any], Any, Any], Any]


def graphql_routes(knowledge: Knowledge, hub: EventHub, gateway: Any) -> list[BaseRoute]:
    """The routes of GraphQL; `gateway` is the stub of GatewayService."""
    door = _Door(knowledge, hub, gateway)
    return [Route("/graphql", door, methods=["GET", "POST"]), WebSocketRoute("/graphql", door)]


class _Door:
    """An ASGI application that becomes strawberry's at the first request."""

    def __init__(self, knowledge: Knowledge, hub: EventHub, gateway: Any) -> None:
        self._knowledge = knowledge
        self._hub = hub
        self._gateway = gateway
        self._app: Any = None
        self._making = asyncio.Lock()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            request = Request(scope, receive)
            body = await read_body(request, _LONGEST)
            if request.headers.get("content-type", "").startswith("application/json"):
                # strawberry takes it that there is an object.
                read_json(body)

            async def receive() -> dict[str, Any]:
                return {"type": "http.request", "body": body, "more_body": False}

        if scope["type"] == "websocket":
            socket, view = WebSocket(scope, receive, send), self._knowledge.view
            try:
                check_origin(socket, view.edge.cors.origins if view is not None else ())
            except PermissionDenied as err:
                await socket.close(_POLICY, err.reason)
                return
        if self._app is None:
            async with self._making:
                self._app = self._app or await asyncio.to_thread(self._make)
        await self._app(scope, receive, send)

    def _make(self) -> Any:
        import strawberry
        from strawberry.asgi import GraphQL
        from strawberry.extensions import SchemaExtension
        from strawberry.schema.config import StrawberryConfig
        from strawberry.subscriptions import GRAPHQL_TRANSPORT_WS_PROTOCOL

        from services.gateway.web.graphql.bounds import build_extensions
        from services.gateway.web.graphql.reader import Reader
        from services.gateway.web.graphql.schema import Query, Subscription

        knowledge, hub, gateway = self._knowledge, self._hub, self._gateway

        class Schema(strawberry.Schema):
            def process_errors(self, errors: list[Any], execution_context: Any = None) -> None:
                for error in errors:
                    _explain(error)

        class _CloseReader(SchemaExtension):
            async def on_operation(self) -> AsyncIterator[None]:
                yield
                await self.execution_context.context["reader"].close()

        class App(GraphQL[dict[str, Any], None]):
            async def get_context(self, request: Request | WebSocket, response: Any) -> dict[str, Any]:
                return {"reader": Reader(knowledge, gateway, caller_of(request)), "hub": hub, "request": request}

        extensions = [*build_extensions(), _CloseReader]
        schema = Schema(query=Query, subscription=Subscription, extensions=extensions, config=StrawberryConfig())
        return App(
            schema, graphql_ide=None, allow_queries_via_get=True, subscription_protocols=[GRAPHQL_TRANSPORT_WS_PROTOCOL]
        )


def _explain(error: Any) -> None:
    """Put reason, field and fix of our errors beside them; what is none of ours is logged and not told."""
    cause = error.original_error
    if cause is None:
        return
    if isinstance(cause, MeshError):
        facts = {"reason": cause.reason, "field": cause.field, "fix": cause.fix}
        error.extensions = {name: value for name, value in facts.items() if value}
        error.message = cause.summary
        return
    _log.error("graphql_failed", path=str(error.path), exc_info=cause)
    error.message = "The gateway met an unexpected error."
    error.extensions = {"reason": "INTERNAL"}
