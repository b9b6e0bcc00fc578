"""What a transport gives: the two streams that the SDK's dispatcher speaks over, and why they ended."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from mcp.client._transport import ReadStream, WriteStream
from mcp.shared.message import SessionMessage

from mesh.mcp.requests.exchange import Exchange


@dataclass(frozen=True, slots=True)
class Wire:
    """An open connection to an MCP server, below the protocol.

    `describe` tells a person what is known of why the connection has ended or does not answer; `settle` waits, for at
    most a second, until that is all. `is_http` is true when messages travel over HTTP, and `is_forgotten` then tells
    whether the server has said that it does not know the session any more. `exchange` carries requests of the modern
    era past the SDK, over the same connection.
    """

    read: ReadStream[SessionMessage | Exception]
    write: WriteStream[SessionMessage]
    describe: Callable[[], str]
    settle: Callable[[], Awaitable[None]]
    exchange: Exchange
    is_http: bool = False
    is_forgotten: Callable[[], bool] = lambda: False


OpenWire = Callable[[], AbstractAsyncContextManager[Wire]]
"""Opens a connection anew; entering it raises MeshError when there is no server to be had."""
