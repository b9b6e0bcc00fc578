"""Server-sent events, https://html.spec.whatwg.org/multipage/server-sent-events.html."""

import asyncio
import json
import random
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from mesh.errors import Unavailable
from services.gateway.web.events.event import STUCK, Event, Notice, Wanted
from services.gateway.web.events.first import run_until_first
from services.gateway.web.events.hub import EventHub
from services.gateway.web.events.sight import Sight
from services.gateway.web.events.subscription import Subscription
from services.gateway.web.events.times import Times
from services.gateway.web.problems import problem_of

_RETRY_MS = (1000, 3000)
"""After how long readers come back: at random, so that those of a gateway that has gone do not come all at once."""
_LATER_SECONDS = 5
_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


class SseStream(Response):
    """An answer that lasts. Not a StreamingResponse: the generator of one that was never begun is never ended."""

    media_type = "text/event-stream"

    def __init__(self, hub: EventHub, wanted: Wanted, sight: Sight, times: Times, *, after: str = "") -> None:
        super().__init__(headers=_HEADERS)
        # It has no length that one could tell.
        del self.headers["content-length"]
        self._hub = hub
        self._wanted = wanted
        self._sight = sight
        self._times = times
        self._after = after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, as ASGI has it."""
        if scope["method"] == "HEAD":
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": b""})
            return
        try:
            with self._hub.subscribe(self._wanted, self._sight, after=self._after) as subscription:
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                await run_until_first(self._write(subscription, send), _wait_for_leave(receive))
        except TimeoutError:
            # Nothing more can be sent; the server closes a connection whose answer is not whole.
            return
        except Unavailable as err:
            refusal = problem_of(err, Request(scope).headers.get("x-correlation-id", ""))
            refusal.headers["retry-after"] = str(_LATER_SECONDS)
            await refusal(scope, receive, send)

    async def _write(self, subscription: Subscription, send: Send) -> None:
        await self._send(send, subscription, b"retry: %d\n\n" % random.randint(*_RETRY_MS))  # noqa: S311
        while True:
            try:
                item = await subscription.next(self._times.heartbeat)
            except TimeoutError:
                # The id lets a reader who is seldom told anything come back without having missed too much.
                await self._send(send, subscription, f": alive\nid: {self._hub.last_id}\n\n".encode())
                continue
            if item is None:
                break
            await self._send(send, subscription, _text(item))
        ending = subscription.ending
        assert ending is not None
        kind = "dropped" if ending.reason == STUCK.reason else "closed"
        last = _event(kind, {"reason": ending.reason, "detail": ending.detail})
        await self._send(send, subscription, last, has_more=False)

    async def _send(self, send: Send, subscription: Subscription, text: bytes, *, has_more: bool = True) -> None:
        message: Message = {"type": "http.response.body", "body": text, "more_body": has_more}
        try:
            async with asyncio.timeout(self._times.send):
                await send(message)
        except TimeoutError:
            self._hub.end(subscription, STUCK)
            raise


async def _wait_for_leave(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _text(item: Event | Notice) -> bytes:
    if isinstance(item, Notice) and item.type == "ready":
        # A block without data is no event, but its id is that from which a reader goes on.
        return f"id: {item.id}\n\n".encode() if item.id else b": ready\n\n"
    return _event(item.type, item.to_json(), item.id)


def _event(kind: str, data: Mapping[str, Any], identifier: str = "") -> bytes:
    head = f"id: {identifier}\n" if identifier else ""
    return f"{head}event: {kind}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
