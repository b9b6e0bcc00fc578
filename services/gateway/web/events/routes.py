"""SSE and WebSocket. Both send the same events; on a WebSocket the reader may change what it wants."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from mesh.access import may_see
from mesh.errors import InvalidInput, MeshError
from services.gateway.knowledge import Knowledge
from services.gateway.web.caller import caller_of
from services.gateway.web.events.hub import TYPES, Event, EventHub, Subscription, Wanted

HEARTBEAT = 15.0
"""Seconds of silence after which a reader is told that the stream lives."""
_RETRY_MS = 1000
_LONGEST_MESSAGE = 16 << 10
# https://www.rfc-editor.org/rfc/rfc6455#section-7.4
_POLICY, _GOING_AWAY, _TRY_LATER, _SLOW = 1008, 1001, 1013, 4008


def event_routes(knowledge: Knowledge, hub: EventHub) -> list[BaseRoute]:
    """The routes of both."""
    doors = _Doors(knowledge, hub)
    return [Route("/events", doors.sse), WebSocketRoute("/ws", doors.websocket)]


class _Doors:
    def __init__(self, knowledge: Knowledge, hub: EventHub) -> None:
        self._knowledge = knowledge
        self._hub = hub

    async def sse(self, request: Request) -> Response:
        wanted = _wanted(_words(request, "types"), _words(request, "services"))
        after = request.headers.get("last-event-id") or request.query_params.get("last_event_id", "")
        # Entered here, so that one too many is an answer and no broken stream.
        entering = self._hub.subscribe(wanted, self._is_allowed(request), after=after)
        subscription, is_whole = entering.__enter__()

        async def stream() -> AsyncIterator[bytes]:
            try:
                yield f"retry: {_RETRY_MS}\n\n".encode()
                if not is_whole:
                    yield self._reset()
                async for piece in self._pieces(subscription):
                    yield piece
            finally:
                entering.__exit__(None, None, None)

        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(stream(), media_type="text/event-stream", headers=headers)

    async def _pieces(self, subscription: Subscription) -> AsyncIterator[bytes]:
        while True:
            try:
                event = await subscription.next(HEARTBEAT)
            except TimeoutError:
                yield b": alive\n\n"
                continue
            if event is None:
                yield _sse("dropped", {"reason": subscription.reason})
                return
            yield _sse(event.type, event.to_json(), event.id)

    def _reset(self) -> bytes:
        reason = "events are missing: read all anew"
        return _sse("reset", {"reason": reason, "id": self._hub.last_id}, self._hub.last_id)

    async def websocket(self, socket: WebSocket) -> None:
        await socket.accept()
        try:
            wanted = _wanted(_words(socket, "types"), _words(socket, "services"))
            after = socket.query_params.get("after", "")
            with self._hub.subscribe(wanted, self._is_allowed(socket), after=after) as (subscription, is_whole):
                await socket.send_json({"type": "ready", "id": self._hub.last_id, "complete": is_whole})
                await _until_first(_read(socket, subscription), _write(socket, subscription))
        except WebSocketDisconnect:
            return
        except MeshError as err:
            code = _POLICY if isinstance(err, InvalidInput) else _TRY_LATER
            await socket.close(code, _short(str(err)))

    def _is_allowed(self, connection: HTTPConnection) -> Callable[[Event], bool]:
        principal = caller_of(connection).principal
        knowledge = self._knowledge

        def is_allowed(event: Event) -> bool:
            view = knowledge.view
            return view is not None and (not event.subject or may_see(view.rules, principal, event.subject))

        return is_allowed


async def _until_first(*works: Coroutine[Any, Any, None]) -> None:
    """Do all of it until one has ended; raises what that one raises."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def _write(socket: WebSocket, subscription: Subscription) -> None:
    while True:
        try:
            event = await subscription.next(HEARTBEAT)
        except TimeoutError:
            await socket.send_json({"type": "alive"})
            continue
        if event is None:
            code = _SLOW if subscription.reason.startswith("slow") else _GOING_AWAY
            await socket.close(code, _short(subscription.reason))
            return
        await socket.send_json(event.to_json())


async def _read(socket: WebSocket, subscription: Subscription) -> None:
    """Messages of the reader: {"type": "subscribe", "types": [...], "services": [...]}, {"type": "ping"}."""
    while True:
        text = await socket.receive_text()
        try:
            message = _message(text)
            if message["type"] == "ping":
                await socket.send_json({"type": "pong"})
                continue
            subscription.wanted = _wanted(message.get("types", ()), message.get("services", ()))
        except InvalidInput as err:
            await socket.send_json({"type": "error", "detail": str(err), "reason": err.reason})
            continue
        await socket.send_json({"type": "subscribed"})


def _message(text: str) -> dict[str, Any]:
    fix = 'Send {"type": "subscribe", "types": [...], "services": [...]} or {"type": "ping"}.'
    try:
        message = json.loads(text) if len(text) <= _LONGEST_MESSAGE else None
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict) or message.get("type") not in ("subscribe", "ping"):
        raise InvalidInput("The message is not understood.", field="type", fix=fix)
    return message


def _wanted(types: Any, services: Any) -> Wanted:
    for name, words in (("types", types), ("services", services)):
        if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
            raise InvalidInput("A list of texts is needed.", field=name, fix="Leave it out for all.")
    unknown = sorted(set(types) - set(TYPES))
    if unknown:
        raise InvalidInput(f"There are no events {unknown[0][:40]!r}.", field="types", fix=f"Use {', '.join(TYPES)}.")
    return Wanted(frozenset(types), frozenset(services))


def _words(connection: HTTPConnection, name: str) -> tuple[str, ...]:
    text = connection.query_params.get(name, "")
    return tuple(word for word in text.split(",") if word)


def _sse(kind: str, data: dict[str, Any], identifier: str = "") -> bytes:
    """One event, https://html.spec.whatwg.org/multipage/server-sent-events.html."""
    head = f"id: {identifier}\n" if identifier else ""
    return f"{head}event: {kind}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


def _short(text: str) -> str:
    """What fits into a close frame: 123 bytes."""
    return text.encode()[:120].decode(errors="ignore")
