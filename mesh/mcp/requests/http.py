"""Requests to a server of the modern era behind a URL: a POST for each, whose body or event stream has the answer.

https://modelcontextprotocol.io/specification/2026-07-28/basic/transports#streamable-http
"""

import re
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

import httpx2

from mesh.errors import Unavailable
from mesh.mcp.frames import BadFrame
from mesh.mcp.requests.exchange import Listener, Outcome, Request, Unreadable
from mesh.mcp.requests.mux import Mux

_HEADERS = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
_LINE_BREAKS = re.compile(rb"[\r\n]+")


class HttpExchange:
    """Carries requests by a client that is shared with others; cancelling one closes its POST."""

    def __init__(self, client: httpx2.AsyncClient, url: str, where: str, max_frame_bytes: int) -> None:
        """`where` is the URL as it may be told to people."""
        self._client = client
        self._url = url
        self._where = where
        self._limit = max_frame_bytes
        # Everything comes on the stream of some request.
        self.on_notify: Callable[[str, dict[str, Any]], bool] = lambda method, params: False
        self._mux = Mux(_never_sent, max_bytes=max_frame_bytes)

    async def ask(self, request: Request, headers: Mapping[str, str], listener: Listener | None = None) -> Outcome:
        """See `Exchange.ask`."""
        number, frame, outcome = self._mux.begin(request, listener)
        try:
            async with (
                self._client.stream("POST", self._url, content=frame, headers={**_HEADERS, **headers}) as response,
                aclosing(self._messages(response)) as messages,
            ):
                async for message in messages:
                    self._mux.offer(_LINE_BREAKS.sub(b" ", message.strip()), origin=number)
                    if outcome.done():
                        return outcome.result()
        except BadFrame as bad:
            raise Unreadable(f"the server's answer is not valid: {bad}") from None
        except httpx2.TransportError as err:
            raise Unavailable(f"{self._where} cannot be reached: {err or type(err).__name__}.") from err
        except (httpx2.HTTPError, httpx2.StreamError) as err:
            raise Unreadable(str(err) or type(err).__name__) from err
        finally:
            self._mux.finish(number)
        raise Unreadable("the server ended the event stream without an answer")

    def end(self) -> None:
        """Let everybody who waits raise Lost."""
        self._mux.end()

    async def _messages(self, response: httpx2.Response) -> AsyncGenerator[bytes]:
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/json":
            yield await response.aread()
        elif not response.is_success:
            raise Unavailable(
                f"{self._where} answered HTTP {response.status_code}.",
                fix="See the log of the server, and the headers that the bridge is to send it (MESH_MCP_HEADERS).",
                retryable=response.status_code in (429, 502, 503, 504),
            )
        elif kind == "text/event-stream":
            async for event in httpx2.EventSource(response, max_event_size=self._limit):
                if event.event == "message" and event.data:
                    yield event.data.encode()
        else:
            raise Unreadable(f"it is {kind or 'nothing'!r} instead of JSON or an event stream")


async def _never_sent(frame: bytes, said: Mapping[str, Any]) -> None:
    raise AssertionError("frames of an HTTP exchange travel in requests of their own")
