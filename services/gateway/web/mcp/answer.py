"""The HTTP answer to a POST: JSON when there is only an outcome, an event stream as soon as there is more."""

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

from starlette.types import Receive, Send

from services.gateway.web.mcp.wire import INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, PARSE_ERROR

PING_SECONDS = 15.0
"""After so much silence something is sent, so that nobody on the way takes the stream for dead."""

_SOON = 0.1
"""Seconds in which most requests are answered."""

_PING = b": ping\n\n"
_EVENTS = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
)
_STATUS = {PARSE_ERROR: 400, INVALID_REQUEST: 400, INVALID_PARAMS: 400, METHOD_NOT_FOUND: 404}
_STATUS |= dict.fromkeys((-32020, -32021, -32022), 400)

Result = TypeVar("Result")


async def send_json(send: Send, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    """A whole answer."""
    kind = ((b"content-type", b"application/json"),) if body else ()
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*kind, length, *headers]})
    await send({"type": "http.response.body", "body": body})


def status_of(code: int) -> int:
    """The HTTP status that 2026-07-28 has for an error code; 200 where it has none.

    https://modelcontextprotocol.io/specification/2026-07-28/basic/transports
    """
    return _STATUS.get(code, 200)


class EventStream:
    """Events to a host, begun with the first of them. Belongs to one request."""

    def __init__(self, send: Send, *headers: tuple[bytes, bytes]) -> None:
        self._send = send
        self._headers = headers
        self._turn = asyncio.Lock()
        self.has_begun = False
        self.is_over = False

    async def event(self, message: bytes) -> None:
        """Send a message; nothing happens when the host has gone."""
        # JSON has no raw line breaks, which would end the event.
        await self._write(b"event: message\ndata: %s\n\n" % message)

    async def ping(self) -> None:
        """Send something that means nothing."""
        await self._write(_PING)

    async def end(self) -> None:
        """Nothing comes any more."""
        async with self._turn:
            if self.has_begun and not self.is_over:
                self.is_over = True
                await self._send({"type": "http.response.body", "body": b""})

    async def _write(self, data: bytes) -> None:
        async with self._turn:
            if self.is_over:
                return
            if not self.has_begun:
                self.has_begun = True
                headers = [*_EVENTS, *self._headers]
                await self._send({"type": "http.response.start", "status": 200, "headers": headers})
            await self._send({"type": "http.response.body", "body": data, "more_body": True})


async def has_gone(receive: Receive) -> None:
    """Come back when the host has closed the connection."""
    while (await receive()).get("type") != "http.disconnect":
        pass


async def attended(work: Coroutine[Any, Any, Result], receive: Receive | None, stream: EventStream) -> Result | None:
    """The result of work that runs in this very task, with pings in its silence.

    With `receive` it is None when the host has gone: the work is cancelled for that. For work that is over soon, as
    nearly all is, nothing but a timer is made.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    attending: list[asyncio.Task[None]] = []
    has_left = False

    async def attend() -> None:
        nonlocal has_left
        gone: asyncio.Future[None] = loop.create_future() if receive is None else loop.create_task(has_gone(receive))
        try:
            while not (await asyncio.wait({gone}, timeout=PING_SECONDS))[0]:
                await stream.ping()
            has_left = True
            task.cancel()
        finally:
            gone.cancel()

    timer = loop.call_later(_SOON, lambda: attending.append(loop.create_task(attend())))
    try:
        return await work
    except asyncio.CancelledError:
        if not has_left or task.uncancel():
            raise
        return None
    finally:
        timer.cancel()
        for each in attending:
            each.cancel()


async def with_pings(stream: EventStream, work: Awaitable[Any]) -> Any:
    """The result of `work`, with pings in its silence; cancelled, it cancels the work."""
    task = asyncio.ensure_future(work)
    try:
        while True:
            done, _ = await asyncio.wait({task}, timeout=PING_SECONDS)
            if done:
                return task.result()
            await stream.ping()
    finally:
        task.cancel()
