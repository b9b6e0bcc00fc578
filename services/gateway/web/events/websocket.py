"""Events on a WebSocket, in JSON; the reader may change what it wants while it reads.

    reader                                                        gateway
    {"type": "subscribe", "types", "services", "after"}           ready, subscribed, unsubscribed {"id", "complete"}
    {"type": "unsubscribe"}                                       events {"id", "type", "time", "subject", "data"}
    {"type": "ping", ...}, {"type": "pong"}                       pong {...}, ping {"id"}
                                                                  reset, snapshot {"id", "data"}, error {"detail", ...}

Close codes: 1001 the gateway stops, 1008 refused, 1009 a message is too large, 1013 no room, 4001 show your credential
anew, 4008 too slow. The reason says which.
"""

import asyncio
import contextlib
import json
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from mesh.errors import InvalidInput, PermissionDenied, Unavailable
from services.gateway.web.events.event import STUCK, Ending, Notice, Wanted
from services.gateway.web.events.filters import parse_query, parse_wanted
from services.gateway.web.events.first import run_until_first
from services.gateway.web.events.hub import EventHub
from services.gateway.web.events.sight import Sight
from services.gateway.web.events.subscription import Subscription
from services.gateway.web.events.times import Times
from services.gateway.web.origins import check_origin

_LONGEST_MESSAGE = 16 << 10
_LONGEST_REASON = 120
_POLICY, _TOO_LARGE, _TRY_LATER = 1008, 1009, 1013
_MESSAGES_PER_SECOND = 20
_BURST = 100
_TOO_LONG = Ending("MESSAGE_TOO_LARGE", f"A message has at most {_LONGEST_MESSAGE} bytes.", _TOO_LARGE)
_TOO_MANY = Ending("TOO_MANY_MESSAGES", f"Send at most {_MESSAGES_PER_SECOND} messages in a second.", _POLICY)
_FIX = 'Send {"type": "subscribe", "types": [...], "services": [...]}, {"type": "unsubscribe"} or {"type": "ping"}.'


class SocketStream:
    """One WebSocket. `origins` are those of other sites whose pages may read."""

    def __init__(
        self, hub: EventHub, socket: WebSocket, sight: Sight, times: Times, *, origins: tuple[str, ...] = ()
    ) -> None:
        self._hub = hub
        self._socket = socket
        self._sight = sight
        self._times = times
        self._origins = origins
        self._credit = float(_BURST)
        self._credit_time = asyncio.get_running_loop().time()

    async def run(self) -> None:
        """Serve it to its end."""
        socket = self._socket
        await socket.accept()
        try:
            check_origin(socket, self._origins)
            wanted, after = parse_query(socket), socket.query_params.get("after", "")
            with self._hub.subscribe(wanted, self._sight, after=after) as subscription:
                await run_until_first(self._read(subscription), self._write(subscription))
        except (InvalidInput, PermissionDenied) as err:
            await self._close(_POLICY, f"{err.reason}: {err}")
        except Unavailable as err:
            await self._close(_TRY_LATER, f"{err.reason}: {err}")
        except (TimeoutError, WebSocketDisconnect):
            return

    async def _write(self, subscription: Subscription) -> None:
        while True:
            try:
                item = await subscription.next(self._times.heartbeat)
            except TimeoutError:
                item = Notice("ping", id=self._hub.last_id)
            if item is None:
                break
            await self._send(subscription, item.to_json())
        ending = subscription.ending
        assert ending is not None
        await self._close(ending.code, f"{ending.reason}: {ending.detail}")

    async def _read(self, subscription: Subscription) -> None:
        """Take what the reader says; answers wait in line with the events."""
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            text = message.get("text")
            if subscription.ending is not None:
                continue
            if not self._has_credit():
                self._hub.end(subscription, _TOO_MANY)
            elif len(text or message.get("bytes") or "") > _LONGEST_MESSAGE:
                self._hub.end(subscription, _TOO_LONG)
            else:
                try:
                    self._take(subscription, _parse(text))
                except InvalidInput as err:
                    facts = {"detail": err.summary, "reason": err.reason, "field": err.field, "fix": err.fix}
                    subscription.tell(Notice("error", facts))

    def _take(self, subscription: Subscription, message: dict[str, Any]) -> None:
        match message["type"]:
            case "ping":
                subscription.tell(Notice("pong", {"data": message["data"]} if "data" in message else {}))
            case "unsubscribe":
                subscription.wanted = Wanted(is_nothing=True)
                subscription.tell(Notice("unsubscribed"))
            case "subscribe":
                after = message.get("after", "")
                if not isinstance(after, str):
                    raise InvalidInput("A text is needed.", field="after", fix="Give the id of an event.")
                wanted = parse_wanted(message.get("types", []), message.get("services", []))
                self._hub.change(subscription, wanted, after=after)

    def _has_credit(self) -> bool:
        now = asyncio.get_running_loop().time()
        self._credit = min(_BURST, self._credit + (now - self._credit_time) * _MESSAGES_PER_SECOND)
        self._credit_time = now
        self._credit -= 1
        return self._credit >= 0

    async def _send(self, subscription: Subscription, content: dict[str, Any]) -> None:
        text = json.dumps(content, separators=(",", ":"))
        try:
            async with asyncio.timeout(self._times.send):
                await self._socket.send({"type": "websocket.send", "text": text})
        except TimeoutError:
            self._hub.end(subscription, STUCK)
            raise

    async def _close(self, code: int, reason: str) -> None:
        # A close frame holds 123 bytes of reason.
        short = reason.encode()[:_LONGEST_REASON].decode(errors="ignore")
        with contextlib.suppress(TimeoutError, WebSocketDisconnect):
            async with asyncio.timeout(self._times.send):
                await self._socket.close(code, short)


def _parse(text: str | None) -> dict[str, Any]:
    try:
        message = json.loads(text) if text is not None else None
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict) or message.get("type") not in ("subscribe", "unsubscribe", "ping", "pong"):
        raise InvalidInput("The message is not understood.", field="type", fix=_FIX)
    return message
