"""A plain grpc.aio server behind a sidecar, without a line of the mesh's code.

--ends-streams   its streams end at SIGTERM; otherwise they go on to their own end
--stubborn       it does not bind over a socket file that is there
--no-health      it does not serve grpc.health.v1
--tell-env       `Say` answers with the environment

`/echo.v1.Echo/Say` answers with a JSON object: instance, pid and the metadata of the call; it takes as many
milliseconds as the request says. `/echo.v1.Echo/Count` streams as many numbers as the request says, 20 ms apart.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

stopped = asyncio.Event()


async def say(request: bytes, context: Any) -> bytes:
    await asyncio.sleep(int(request or 0) / 1000)
    if "--tell-env" in sys.argv:
        return json.dumps(dict(os.environ)).encode()
    metadata = {name: value for name, value in context.invocation_metadata() if isinstance(value, str)}
    return json.dumps({"instance": os.environ["MESH_INSTANCE"], "pid": os.getpid(), "metadata": metadata}).encode()


async def count(request: bytes, context: Any) -> AsyncIterator[bytes]:
    for number in range(int(request)):
        if stopped.is_set() and "--ends-streams" in sys.argv:
            return
        yield b"%d" % number
        await asyncio.sleep(0.02)


async def main() -> int:
    server = grpc.aio.server()
    methods = {
        "Say": grpc.unary_unary_rpc_method_handler(say),
        "Count": grpc.unary_stream_rpc_method_handler(count),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("echo.v1.Echo", methods)])
    servicer = health.aio.HealthServicer()
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    if "--no-health" not in sys.argv:
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    listen = os.environ["MESH_LISTEN"]
    if "--stubborn" in sys.argv and Path(listen.removeprefix("unix:")).exists():
        return 98
    server.add_insecure_port(listen)
    await server.start()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await server.stop(10)
    return 0


sys.exit(asyncio.run(main()))
