"""One stream and what goes over it: a mailbox of one response, which is made when there is room for it.

    offer (the newest snapshot) ──┐
    read (requests) ──────────────┴──> AdsStream ──> one response ──> write ──> client

Nothing piles up for a client that is slow: while a response is on its way, changes only mark what is due. The next
response is made of the newest snapshot, so what happened in between is never sent.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from google.protobuf.message import DecodeError

from mesh.errors import DeadlineExceeded, InvalidInput
from mesh.xds.reconcile import Spec
from mesh.xds.responses import Response
from mesh.xds.snapshot import Snapshot
from mesh.xds.stream import AdsStream

_FIRST_REQUEST_SECONDS = 15.0
"""How long a stream may say nothing before it is closed; a proxy speaks at once."""

_MOST_CROSSING_REQUESTS = 64
"""Requests that are read while a response is on its way; a client that sends more is held up by gRPC's flow control."""


class Connection:
    """A stream of one client. `on_settled` is called when the client has acknowledged all that there is for it."""

    def __init__(self, stream: AdsStream[Any], spec: Spec, *, on_settled: Callable[[], None]) -> None:
        self.stream = stream
        self.spec = spec
        self._on_settled = on_settled
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._next: Response | None = None
        self._is_writing = False
        self._crossing = 0
        self._is_read = False
        self._is_over = False

    def offer(self, snapshot: Snapshot, version: str) -> None:
        """What the client should have from now on; `version` names the state that it follows from."""
        self.stream.set_snapshot(snapshot, version)
        self._prepare()

    def end(self) -> None:
        """End the stream, with status OK, when the response that is on its way has left."""
        self._is_over = True
        self._wake.set()

    async def read(self, requests: AsyncIterator[Any]) -> None:
        """Take requests until the client is done. Raises InvalidInput for what cannot be read, and as streams do."""
        try:
            async for request in requests:
                while self._is_writing and self._crossing >= _MOST_CROSSING_REQUESTS:
                    self._room.clear()
                    await self._room.wait()
                self._crossing += 1
                self.stream.receive(request)
                self._prepare()
        except DecodeError as err:
            raise _unreadable() from err
        finally:
            self._is_read = True
            self._wake.set()

    async def write(self, context: Any) -> None:
        """Send what is due until the client or the server is done. A slow client holds up only itself."""
        while not self._is_over and not (self._is_read and self._next is None):
            await self._wake.wait()
            self._wake.clear()
            while self._next is not None and not self._is_over:
                response, self._next = self._next, None
                self._is_writing, self._crossing = True, 0
                try:
                    await context.write(response)
                finally:
                    self._is_writing = False
                    self._room.set()
                self._prepare()

    def _prepare(self) -> None:
        """Make the next response, if there is room for it and something to say."""
        if self._is_writing or self._next is not None:
            return
        self._next = self.stream.next_response()
        if self._next is not None:
            self._wake.set()
        elif not self.stream.is_waiting:
            self._on_settled()


async def read_first(requests: AsyncIterator[Any]) -> Any | None:
    """The first request; None when the client has nothing to say. Raises DeadlineExceeded when it keeps silent."""
    try:
        async with asyncio.timeout(_FIRST_REQUEST_SECONDS):
            return await anext(aiter(requests), None)
    except TimeoutError as err:
        raise DeadlineExceeded("The stream says nothing.", fix="Send a request with the node at once.") from err
    except DecodeError as err:
        raise _unreadable() from err


def _unreadable() -> InvalidInput:
    return InvalidInput("The request cannot be read.", field="request", fix="Send what the method's contract says.")
