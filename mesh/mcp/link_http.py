"""The server's end of a Link behind a URL: bodies and events pass as they are.

The SDK's HTTP transport reads every message and writes it anew, so it cannot serve a link that promises verbatim
frames. Each request is a POST of its own whose answers come back in one body or as an event stream; the handshake era
adds a session id, a standalone event stream and a DELETE at the end; the modern era cancels by closing the POST.
https://modelcontextprotocol.io/specification/2026-07-28/basic/transports#streamable-http
"""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from mcp.shared.inbound import (
    MCP_METHOD_HEADER,
    MCP_NAME_HEADER,
    MCP_PROTOCOL_VERSION_HEADER,
    NAME_BEARING_METHODS,
    encode_header_value,
)
from mcp_types import PROTOCOL_VERSION_META_KEY
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from mesh.mcp.frames import INTERNAL_ERROR, BadFrame, build_error_frame, dump_json, parse_frame
from mesh.mcp.noise import NoiseLog
from mesh.mcp.streamable_http import HttpFaults, HttpServer, open_http_client

_SESSION_ID = "mcp-session-id"
_ACCEPT = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
_MAX_IN_FLIGHT = 256
_GOODBYE_TIMEOUT = 2.0
_NOTIFY_TIMEOUT = 10.0
_LINE_BREAKS = re.compile(rb"[\r\n]+")
_NO_HEADERS: Mapping[str, str] = {}


class HttpPeer:
    """A server behind a URL that serves one Link."""

    def __init__(self, server: HttpServer, client: httpx2.AsyncClient, faults: HttpFaults, name: str) -> None:
        self._server = server
        self._client = client
        self._faults = faults
        self._tasks: asyncio.TaskGroup | None = None
        self._noise = NoiseLog(name)
        # One slot: a caller that does not read holds the server's streams back.
        self._inbox: asyncio.Queue[tuple[bytes, Mapping[str, str]] | None] = asyncio.Queue(1)
        self._posts: dict[str | int, asyncio.Task[None]] = {}
        self._room = asyncio.Semaphore(_MAX_IN_FLIGHT)
        self._session_id = ""
        self._version = ""
        self._stream: asyncio.Task[None] | None = None

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Run requests in `tasks` from now on."""
        self._tasks = tasks

    def give_up(self) -> None:
        """Cancel whatever still runs."""
        for task in (*self._posts.values(), self._stream):
            if task is not None:
                task.cancel()

    async def send(self, frame: bytes, parsed: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        """POST the frame; requests go on in the background, so that frames overtake a slow one."""
        method = parsed.get("method")
        request_id = parsed.get("id")
        sent_headers = self._headers_for(parsed, headers)
        if method == "notifications/cancelled" and self._cancel(parsed):
            return
        await self._room.acquire()
        if method is not None and request_id is not None:
            assert self._tasks is not None
            task = self._tasks.create_task(self._post(frame, sent_headers, request_id, str(method)))
            self._posts[request_id] = task
            task.add_done_callback(lambda done: self._forget(request_id, done))
        else:
            # In order, and done before the next: a request may rely on the notification before it.
            try:
                async with asyncio.timeout(_NOTIFY_TIMEOUT):
                    await self._post(frame, sent_headers, None, str(method or ""))
            except TimeoutError:
                self._noise.warn("mcp_http_refused", method=str(method), why="the server does not take it")
            finally:
                self._room.release()

    async def close_send(self) -> None:
        """Wait for the answers that are still due, then let `receive` end."""
        if self._posts:
            await asyncio.wait(set(self._posts.values()))
        await self._inbox.put(None)

    async def receive(self) -> tuple[bytes, Mapping[str, str]] | None:
        """Return the server's next message."""
        return await self._inbox.get()

    async def explain(self) -> str:
        """Tell what went wrong last."""
        return self._faults.describe()

    async def goodbye(self) -> None:
        """End the server's session, if it has one."""
        if not self._session_id:
            return
        with contextlib.suppress(httpx2.HTTPError, TimeoutError):
            async with asyncio.timeout(_GOODBYE_TIMEOUT):
                await self._client.delete(self._server.url, headers=self._session_headers())

    def _forget(self, request_id: str | int, task: asyncio.Task[None]) -> None:
        self._room.release()
        if self._posts.get(request_id) is task:
            del self._posts[request_id]

    def _cancel(self, parsed: Mapping[str, Any]) -> bool:
        """In the modern era, close the POST of the request that is given up; tell whether that was all to be done."""
        if self._version not in MODERN_PROTOCOL_VERSIONS:
            return False
        params = parsed.get("params")
        request_id = params.get("requestId") if isinstance(params, dict) else None
        task = self._posts.get(request_id) if isinstance(request_id, str | int) else None
        if task is not None:
            task.cancel()
        return True

    def _session_headers(self) -> dict[str, str]:
        headers = dict(_ACCEPT)
        if self._session_id:
            headers[_SESSION_ID] = self._session_id
        if self._version:
            headers[MCP_PROTOCOL_VERSION_HEADER] = self._version
        return headers

    def _headers_for(self, parsed: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, str]:
        """Put together a frame's headers: those that came with it, else those that follow from what it says.

        Only headers of MCP and of tracing pass: others could change what the request is, or whose.
        """
        passed = {name.lower(): value for name, value in given.items()}
        passed = {
            name: value
            for name, value in passed.items()
            if (name.startswith("mcp-") and name != _SESSION_ID) or name in ("traceparent", "tracestate", "baggage")
        }
        method = parsed.get("method")
        params = parsed.get("params") if isinstance(parsed.get("params"), dict) else {}
        meta = params.get("_meta") if isinstance(params, dict) else None
        version = passed.get(MCP_PROTOCOL_VERSION_HEADER)
        if version is None and isinstance(meta, dict):
            version = meta.get(PROTOCOL_VERSION_META_KEY)
        if method == "initialize":
            self._version = ""
        elif isinstance(version, str) and version:
            self._version = version
        headers = self._session_headers()
        if self._version in MODERN_PROTOCOL_VERSIONS and isinstance(method, str):
            headers[MCP_METHOD_HEADER] = method
            name = params.get(NAME_BEARING_METHODS.get(method, "")) if isinstance(params, dict) else None
            if isinstance(name, str):
                headers[MCP_NAME_HEADER] = encode_header_value(name)
        return headers | passed

    async def _post(self, frame: bytes, headers: dict[str, str], request_id: str | int | None, method: str) -> None:
        """Send one frame and carry what comes back; a request whose answer cannot be had gets an error frame."""
        try:
            why = await self._exchange(frame, headers, request_id, method)
        except httpx2.HTTPError as err:
            why = f"the server cannot be reached: {err or type(err).__name__}"
        except httpx2.StreamError as err:
            why = str(err)
        if why and request_id is not None:
            await self._inbox.put((build_error_frame(INTERNAL_ERROR, why, request_id), _NO_HEADERS))
        elif why:
            self._noise.warn("mcp_http_refused", method=method, why=why)
        if not why and method == "notifications/initialized" and self._stream is None:
            assert self._tasks is not None
            self._stream = self._tasks.create_task(self._listen())

    async def _exchange(self, frame: bytes, headers: dict[str, str], request_id: str | int | None, method: str) -> str:
        """POST and pass the answer on; return why there is none, or ""."""
        async with self._client.stream("POST", self._server.url, content=frame, headers=headers) as response:
            if method == "initialize" and _SESSION_ID in response.headers:
                self._session_id = response.headers[_SESSION_ID]
            content_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            if content_type == "application/json":
                body = await response.aread()
                if request_id is None:
                    return f"the server answered HTTP {response.status_code}" if response.is_error else ""
                return await self._pass_on(body, answers=request_id)
            if not response.is_success:
                return f"the server answered HTTP {response.status_code}"
            if request_id is None:
                return ""
            if content_type != "text/event-stream":
                return f"the server answered {content_type or 'nothing'!r} instead of JSON or an event stream"
            return await self._pass_events(response)

    async def _pass_events(self, response: httpx2.Response) -> str:
        async for event in httpx2.EventSource(response, max_event_size=self._server.max_frame_bytes):
            if event.event != "message" or not event.data:
                continue
            why = await self._pass_on(event.data.encode())
            if why:
                self._noise.warn("mcp_event_not_json_rpc", why=why)
            elif _is_answer(event.data):
                return ""
        return "the server ended the event stream without an answer"

    async def _listen(self) -> None:
        """Carry what the server says outside of requests, in the handshake era; a server need not offer that."""
        if not self._session_id:
            return
        headers = self._session_headers() | {"accept": "text/event-stream"}
        del headers["content-type"]
        with contextlib.suppress(httpx2.HTTPError):
            async with self._client.stream("GET", self._server.url, headers=headers) as response:
                if not response.is_success:
                    return
                async for event in httpx2.EventSource(response, max_event_size=self._server.max_frame_bytes):
                    if event.event == "message" and event.data:
                        await self._pass_on(event.data.encode())

    async def _pass_on(self, message: bytes, *, answers: str | int | None = None) -> str:
        """Give a message to the caller; return why it is none, or "".

        An error without an id, with which a server refuses what it has not read, is given that of the request.
        """
        # Outside of strings, where JSON has no raw line breaks, one is as good as a space.
        line = _LINE_BREAKS.sub(b" ", message.strip())
        try:
            parsed = parse_frame(line, max_bytes=self._server.max_frame_bytes)
        except BadFrame as bad:
            return f"the server's answer is not valid: {bad}"
        if answers is not None and "error" in parsed and parsed["id"] is None:
            line = dump_json({**parsed, "id": answers})
        await self._inbox.put((line, _NO_HEADERS))
        return ""


def _is_answer(message: str) -> bool:
    """Tell whether a valid message is a response: the one to the request, since only that comes on its stream."""
    return "method" not in json.loads(message)


@asynccontextmanager
async def open_http_peer(server: HttpServer, name: str) -> AsyncIterator[HttpPeer]:
    """Open a connection for one Link; on exit all its requests are given up and the server's session is ended."""
    faults = HttpFaults(server.url)
    async with open_http_client(server, faults) as client:
        peer = HttpPeer(server, client, faults, name)
        try:
            async with asyncio.TaskGroup() as tasks:
                peer.start(tasks)
                try:
                    yield peer
                finally:
                    peer.give_up()
        finally:
            await peer.goodbye()
