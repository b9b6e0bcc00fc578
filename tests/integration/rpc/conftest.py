"""A server with one handler of each kind, on a unix socket, and channels to it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from mesh.rpc import ServerSettings, open_server, open_target

SERVICE = "test.v1.Test"


class Handlers:
    """Handlers that a test may replace; requests and answers are bytes."""

    async def unary(self, request: bytes, context: Any) -> bytes:
        return request

    async def server_stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for number in range(int(request)):
            yield b"%d" % number

    async def client_stream(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return b"".join([request async for request in requests])

    async def both_stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    # The handlers are looked up at each call, after a test has put in its own.
    # ruff: noqa: PLW0108
    def generic(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Unary": grpc.unary_unary_rpc_method_handler(lambda r, c: self.unary(r, c)),
                "ServerStream": grpc.unary_stream_rpc_method_handler(lambda r, c: self.server_stream(r, c)),
                "ClientStream": grpc.stream_unary_rpc_method_handler(lambda r, c: self.client_stream(r, c)),
                "BothStream": grpc.stream_stream_rpc_method_handler(lambda r, c: self.both_stream(r, c)),
            },
        )


class Calls:
    """The methods of a test server through one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.unary = channel.unary_unary(f"/{SERVICE}/Unary")
        self.server_stream = channel.unary_stream(f"/{SERVICE}/ServerStream")
        self.client_stream = channel.stream_unary(f"/{SERVICE}/ClientStream")
        self.both_stream = channel.stream_stream(f"/{SERVICE}/BothStream")


@pytest.fixture
def handlers() -> Handlers:
    return Handlers()


@pytest.fixture
def serve(short_dir: Path, handlers: Handlers) -> Callable[..., Any]:
    """Open a server with `handlers` and other settings than the default; yields (server, calls)."""

    @contextlib.asynccontextmanager
    async def serve(**settings: Any) -> AsyncIterator[Any]:
        target = f"unix:{short_dir}/s.sock"
        given = ServerSettings(**{"service": "test", "listen": target, "drain_grace": 5.0} | settings)
        async with (
            open_server(given, [], generic_handlers=[handlers.generic()]) as server,
            open_target(target, authority="test.mesh") as channel,
        ):
            await server.set_serving(True)
            async with asyncio.timeout(20):
                yield server, Calls(channel)

    return serve
