"""Any number of requests over one stream of frames: ids go out, answers find the way back. Does no I/O of its own.

An answer is told by its first bytes, or by its last, and its result is passed on as the bytes that it came in: what is
cut out is parsed once, to be sure that it is all of the result and nothing else. Frames in other forms, which JSON
allows, are read in full.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from mesh.errors import MeshError
from mesh.mcp.frames import dump_json, load_json_object, parse_frame
from mesh.mcp.requests.exchange import Listener, Lost, Outcome, Request, Unreadable

SUBSCRIPTION_ID = "io.modelcontextprotocol/subscriptionId"

_HEAD = re.compile(rb'\s*\{\s*"jsonrpc"\s*:\s*"2\.0"\s*,\s*"id"\s*:\s*(\d{1,18})\s*,\s*"result"\s*:')
_RESULT_FIRST = re.compile(rb'\s*\{\s*"result"\s*:')
_TAIL = re.compile(rb',\s*"jsonrpc"\s*:\s*"2\.0"\s*,\s*"id"\s*:\s*(\d{1,18})\s*\}\s*\Z')
_TAIL_BYTES = 80
_CANCEL_SECONDS = 1.0

Send = Callable[[bytes, Mapping[str, Any]], Awaitable[None]]
"""Sends a frame; the mapping is what it says. Raises MeshError when the server is gone."""


class _Waiting(NamedTuple):
    outcome: asyncio.Future[Outcome]
    listener: Listener | None
    token: str | int | None


class Mux:
    """Numbers requests from `first_id` on, and gives the answers to those who wait for them.

    `on_request` takes requests of the server, `on_notify` notifications that belong to no single request; both tell
    whether they took it.
    """

    def __init__(
        self,
        send: Send,
        *,
        max_bytes: int,
        first_id: int = 1,
        on_request: Callable[[dict[str, Any]], bool] = lambda frame: False,
        on_notify: Callable[[str, dict[str, Any]], bool] = lambda method, params: False,
    ) -> None:
        self._send = send
        self._max_bytes = max_bytes
        self._first_id = first_id
        self._next_id = first_id
        self._on_request = on_request
        self.on_notify = on_notify
        self._waiting: dict[int, _Waiting] = {}
        self._is_over = False

    @property
    def is_over(self) -> bool:
        """True once nothing can be asked any more."""
        return self._is_over

    async def ask(self, request: Request, headers: Mapping[str, str], listener: Listener | None = None) -> Outcome:
        """See `Exchange.ask`."""
        number, frame, outcome = self.begin(request, listener)
        try:
            await self._send(frame, {"id": number, "method": request.method, "params": request.params})
            return await outcome
        except asyncio.CancelledError:
            await self._cancel(number)
            raise
        finally:
            self.finish(number)

    def begin(self, request: Request, listener: Listener | None) -> tuple[int, bytes, asyncio.Future[Outcome]]:
        """Give a request its number; returns that, the frame to be sent, and where its outcome will be.

        Raises Lost when the connection is over. `finish` must follow.
        """
        if self._is_over:
            raise Lost
        number = self._next_id
        self._next_id += 1
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        token = None if listener is None else request.progress_token
        self._waiting[number] = _Waiting(outcome, listener, token)
        text = request.text_with_token(None if token is None else number)
        method = json.dumps(request.method).encode()
        return number, b'{"jsonrpc":"2.0","id":%d,"method":%s,"params":%s}' % (number, method, text), outcome

    def finish(self, number: int) -> None:
        """Forget a request."""
        self._waiting.pop(number).outcome.cancel()

    async def notify(self, method: str, params: dict[str, Any]) -> None:
        """Send a notification."""
        frame = {"jsonrpc": "2.0", "method": method, "params": params}
        await self._send(dump_json(frame), frame)

    async def answer(self, request_id: str | int, kind: str, text: bytes) -> None:
        """Answer a request of the server; `kind` is "result" or "error"."""
        frame = b'{"jsonrpc":"2.0","id":%s,"%s":%s}' % (dump_json(request_id), kind.encode(), text)
        await self._send(frame, {"id": request_id, kind: {}})

    def end(self) -> None:
        """Let everybody who waits raise Lost."""
        self._is_over = True
        for waiting in self._waiting.values():
            if not waiting.outcome.done():
                waiting.outcome.set_exception(Lost())

    def fail(self, request_id: str | int | None, why: str) -> bool:
        """Fail the request whose answer could not be read; tell whether there was one."""
        waiting = self._find(request_id)
        if waiting is not None and not waiting.outcome.done():
            waiting.outcome.set_exception(Unreadable(why))
        return waiting is not None or self._is_own(request_id)

    def offer(self, line: bytes, *, origin: int | None = None) -> bool:
        """Take a frame if it belongs here; tell whether it did. Raises BadFrame for what is none.

        `origin` is the request on whose own stream it came, where there is such a thing.
        """
        found, text = _cut(line)
        if found is not None:
            number = int(found)
            waiting = self._waiting.get(number)
            if waiting is None:
                return self._is_own(number)  # the answer to a request that was given up
            try:
                result = load_json_object(text)
            except ValueError:
                pass  # something follows the result, or it is none: found out below
            else:
                if text and not waiting.outcome.done():
                    waiting.outcome.set_result(Outcome(text, result))
                    return True
        frame = parse_frame(line, max_bytes=self._max_bytes)
        if "method" in frame:
            return self._take_message(frame, origin)
        # An error without an id, with which a server refuses what it has not read, is given that of the request.
        return self._take_answer(frame, origin if frame["id"] is None else frame["id"])

    def _take_message(self, frame: dict[str, Any], origin: int | None) -> bool:
        method = frame["method"]
        if "id" in frame:
            return self._on_request(frame)
        found = frame.get("params")
        params: dict[str, Any] = found if isinstance(found, dict) else {}
        if method == "notifications/progress":
            return self._take_progress(params)
        meta = params.get("_meta")
        subscription = meta.get(SUBSCRIPTION_ID) if isinstance(meta, dict) else None
        waiting = self._find(origin if subscription is None else subscription)
        if waiting is None:
            return self._is_own(subscription) or self.on_notify(method, params)
        if waiting.listener is not None:
            if subscription is not None and isinstance(meta, dict):
                # A number of ours, which means nothing to whoever listens.
                meta.pop(SUBSCRIPTION_ID)
                if not meta:
                    params.pop("_meta")
            waiting.listener.notify(method, params)
        return True

    def _take_answer(self, frame: dict[str, Any], number: Any) -> bool:
        waiting = self._find(number)
        if waiting is None:
            return self._is_own(number)
        if waiting.outcome.done():
            return True
        error, result = frame.get("error"), frame.get("result")
        try:
            if isinstance(error, dict):
                waiting.outcome.set_result(Outcome(error=dump_json(error)))
            elif isinstance(result, dict):
                waiting.outcome.set_result(Outcome(dump_json(result), result))
            else:
                waiting.outcome.set_exception(Unreadable("neither its result nor its error is a JSON object"))
        except ValueError as err:
            waiting.outcome.set_exception(Unreadable(f"it is not valid: {err}"))
        return True

    def _take_progress(self, params: dict[str, Any]) -> bool:
        token = params.get("progressToken")
        waiting = self._find(token)
        if waiting is None:
            return self._is_own(token)
        if waiting.listener is not None and waiting.token is not None:
            waiting.listener.notify("notifications/progress", {**params, "progressToken": waiting.token})
        return True

    def _find(self, number: Any) -> _Waiting | None:
        number = _as_number(number)
        return None if number is None else self._waiting.get(number)

    def _is_own(self, number: Any) -> bool:
        number = _as_number(number)
        return number is not None and self._first_id <= number < self._next_id

    async def _cancel(self, number: int) -> None:
        if self._is_over:
            return
        with suppress(MeshError, TimeoutError):
            async with asyncio.timeout(_CANCEL_SECONDS):
                await self.notify("notifications/cancelled", {"requestId": number, "reason": "the caller gave up"})


def _cut(line: bytes) -> tuple[bytes | None, bytes]:
    """Find the id and the result in a frame of one of the two usual forms; the result is yet to be proven one."""
    head = _HEAD.match(line)
    if head is not None:
        text = line[head.end() :].strip()
        return (head.group(1), text[:-1].rstrip()) if text.endswith(b"}") else (None, b"")
    head = _RESULT_FIRST.match(line)
    if head is not None:
        start = max(head.end(), len(line) - _TAIL_BYTES)
        tail = _TAIL.search(line, start)
        if tail is not None:
            return tail.group(1), line[head.end() : tail.start()].strip()
    return None, b""


def _as_number(value: Any) -> int | None:
    """Read an id; some servers give a number back as a string."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and len(value) < 18 and value.isascii() and value.isdigit():
        return int(value)
    return value if isinstance(value, int) else None
