"""The two doors. Both send the same events; on a WebSocket the reader may change what it wants."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from services.gateway.knowledge import Knowledge
from services.gateway.web.caller import caller_of
from services.gateway.web.events.filters import parse_query
from services.gateway.web.events.hub import EventHub
from services.gateway.web.events.sight import Sight
from services.gateway.web.events.sse import SseStream
from services.gateway.web.events.times import Times
from services.gateway.web.events.websocket import SocketStream

_EVENTS, _SOCKET = "/events", "/ws"


def event_routes(knowledge: Knowledge, hub: EventHub, times: Times | None = None) -> list[BaseRoute]:
    """/events and /ws."""
    doors = _Doors(knowledge, hub, times or Times())
    return [Route(_EVENTS, doors.events), WebSocketRoute(_SOCKET, doors.socket)]


class _Doors:
    def __init__(self, knowledge: Knowledge, hub: EventHub, times: Times) -> None:
        self._knowledge = knowledge
        self._hub = hub
        self._times = times

    async def events(self, request: Request) -> Response:
        after = request.headers.get("last-event-id") or request.query_params.get("last_event_id", "")
        sight = Sight(self._knowledge, caller_of(request), _EVENTS)
        return SseStream(self._hub, parse_query(request), sight, self._times, after=after)

    async def socket(self, socket: WebSocket) -> None:
        view = self._knowledge.view
        origins = view.edge.cors.origins if view is not None else ()
        sight = Sight(self._knowledge, caller_of(socket), _SOCKET)
        await SocketStream(self._hub, socket, sight, self._times, origins=origins).run()
