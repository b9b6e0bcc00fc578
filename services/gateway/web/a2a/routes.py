"""The routes of HTTP."""

from starlette.routing import BaseRoute, Mount, Route
from starlette.types import Receive, Scope, Send

from services.gateway.web.a2a.lazy import A2aDoor


def a2a_routes(door: A2aDoor) -> list[BaseRoute]:
    """All routes of A2A over HTTP."""
    app = _App(door)
    return [Route("/agents/{agent}", app, methods=["POST"]), Mount("/agents/{agent}", app)]


class _App:
    """Hands requests on to what the SDK serves."""

    def __init__(self, door: A2aDoor) -> None:
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (await self._door.bindings()).app(scope, receive, send)
