"""An MCP server behind a URL: streamable HTTP, with bounded answers and a memory for what went wrong last."""

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType

import httpx2
from mcp.client.streamable_http import streamable_http_client

from mesh.errors import InvalidInput, Unavailable
from mesh.mcp.faults import leaf_of
from mesh.mcp.frames import DEFAULT_MAX_FRAME_BYTES
from mesh.mcp.requests.http import HttpExchange
from mesh.mcp.wire import Wire

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class HttpServer:
    """Where an MCP server answers, and the headers (such as Authorization) that it wants with each request."""

    url: str
    headers: Mapping[str, str] = field(default_factory=lambda: _NO_HEADERS, repr=False)
    max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES
    connect_timeout: float = 10.0


def check_url(url: str) -> None:
    """Raise InvalidInput unless `url` can be that of an MCP server."""
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as err:
        raise InvalidInput(f"{url!r} is not a URL: {err}.", field="url") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InvalidInput(f"{url!r} is not the URL of an MCP server.", field="url", fix="Write http://HOST:PORT/mcp.")


class HttpFaults:
    """What went wrong last between the bridge and the server."""

    def __init__(self, url: str) -> None:
        # Without user, password and query, any of which may be secret.
        self.where = str(httpx2.URL(url).copy_with(userinfo=b"", query=None, fragment=None))
        self.last = ""
        self.is_session_forgotten = False

    def describe(self) -> str:
        """Tell a person what is known."""
        return self.last or f"the connection to {self.where} ended"

    async def settle(self) -> None:
        """Nothing more becomes known by waiting."""


def open_http_client(server: HttpServer, faults: HttpFaults) -> httpx2.AsyncClient:
    """Build a client whose JSON answers are bounded; reading has no timeout, since each call has its own deadline."""
    return httpx2.AsyncClient(
        transport=_BoundedTransport(server, faults),
        headers=dict(server.headers),
        timeout=httpx2.Timeout(None, connect=server.connect_timeout, write=server.connect_timeout),
    )


def _tls_context(url: str) -> ssl.SSLContext:
    """Return the context for a URL. Reading the machine's certificates takes 20 ms: it is done once, if needed."""
    return _verifying_context() if url.lower().startswith("https:") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@cache
def _verifying_context() -> ssl.SSLContext:
    return httpx2.create_ssl_context()


@asynccontextmanager
async def open_http_wire(server: HttpServer) -> AsyncIterator[Wire]:
    """Give the streams of a server behind a URL.

    Nothing is sent yet. A server that cannot be reached shows at the first request, which ends the context: it raises
    Unavailable.
    """
    faults = HttpFaults(server.url)
    try:
        async with (
            open_http_client(server, faults) as client,
            streamable_http_client(
                server.url, http_client=client, max_sse_event_size=server.max_frame_bytes
            ) as streams,
        ):
            read, write = streams
            yield Wire(
                read,
                write,
                faults.describe,
                faults.settle,
                HttpExchange(client, server.url, faults.where, server.max_frame_bytes),
                is_http=True,
                is_forgotten=lambda: faults.is_session_forgotten,
            )
    except BaseExceptionGroup as group:
        if isinstance(leaf_of(group), httpx2.TransportError):
            raise Unavailable(f"The MCP server is not there: {faults.describe()}.") from group
        raise


class _TooLarge(httpx2.StreamError):
    """An answer was larger than allowed. A StreamError, since the SDK answers the one waiting call on it."""


class _BoundedStream(httpx2.AsyncByteStream):
    """Passes a body on until it grows too large."""

    def __init__(self, stream: httpx2.AsyncByteStream, limit: int) -> None:
        self._stream = stream
        self._limit = limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._stream:
            size += len(chunk)
            if size > self._limit:
                raise _TooLarge(f"the answer is larger than the {self._limit} bytes allowed")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


class _BoundedTransport(httpx2.AsyncBaseTransport):
    """httpx2's own transport, with a limit on bodies that are not event streams."""

    def __init__(self, server: HttpServer, faults: HttpFaults) -> None:
        limits = httpx2.Limits(max_connections=1024, max_keepalive_connections=32)
        self._inner = httpx2.AsyncHTTPTransport(verify=_tls_context(server.url), limits=limits)
        self._limit = server.max_frame_bytes
        self._faults = faults

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            response = await self._inner.handle_async_request(request)
        except httpx2.TransportError as err:
            self._faults.last = f"{self._faults.where} cannot be reached: {err or type(err).__name__}"
            raise
        # 405 to a GET only says that the server has no standalone stream.
        if response.status_code >= 400 and request.method == "POST":
            self._faults.last = f"{self._faults.where} answered HTTP {response.status_code}"
            # https://modelcontextprotocol.io/specification/2025-11-25/basic/transports#session-management
            if response.status_code == 404 and "mcp-session-id" in request.headers:
                self._faults.is_session_forgotten = True
        content_type = response.headers.get("content-type", "")
        if not content_type.startswith("text/event-stream") and isinstance(response.stream, httpx2.AsyncByteStream):
            response.stream = _BoundedStream(response.stream, self._limit)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()
