"""The routes of HTTP."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import Receive, Scope, Send

from services.gateway.web.a2a.lazy import A2aDoor

KEYS_PATH = "/.well-known/agent-card-keys.json"


def a2a_routes(door: A2aDoor) -> list[BaseRoute]:
    """All routes of A2A over HTTP."""
    app = _App(door)

    async def keys(request: Request) -> Response:
        return await (await door.bindings()).cards.keys(request)

    return [
        Route(KEYS_PATH, keys, methods=["GET"]),
        Route("/agents/{agent}", app, methods=["POST"]),
        Mount("/agents/{agent}", app),
    ]


class _App:
    """Hands requests on to what the SDK serves."""

    def __init__(self, door: A2aDoor) -> None:
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (await self._door.bindings()).app(scope, receive, send)
