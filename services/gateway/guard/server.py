"""Serves the guard to the own Envoy, without what other servers have around each call: it would cost as much again."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import grpc

from mesh.rpc.lasting import LastingServer
from mesh.runtime import open_background

_GRACE = 5.0
_MOST_BYTES = 4 << 20
_MOST_CALLS = 4096


@asynccontextmanager
async def open_guard(listen: str, handlers: Sequence[grpc.GenericRpcHandler]) -> AsyncIterator[None]:
    """Serve the handlers at "unix:PATH", which only the own account can open, while the block runs."""

    def build() -> grpc.aio.Server:
        options = [("grpc.max_receive_message_length", _MOST_BYTES), ("grpc.so_reuseport", 0)]
        server = grpc.aio.server(options=options, maximum_concurrent_rpcs=_MOST_CALLS)
        server.add_generic_rpc_handlers(tuple(handlers))
        return server

    lasting = LastingServer(build, listen, None)
    await lasting.start()
    try:
        async with open_background(lasting.keep()):
            yield
    finally:
        await lasting.stop(_GRACE)
