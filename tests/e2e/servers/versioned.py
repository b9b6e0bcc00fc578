"""A gRPC server that says which version it is, and does as badly as it is told.

FAILS=N       every Nth call ends with UNAVAILABLE
TAKES=MS      every call takes so many milliseconds
"""

import asyncio
import itertools
import os
import signal
import sys

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

VERSION, FAILS, TAKES = os.environ["ECHO_VERSION"], int(os.environ.get("FAILS", "0")), int(os.environ.get("TAKES", "0"))
numbers = itertools.count(1)


async def say(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
    number = next(numbers)
    await asyncio.sleep(TAKES / 1000)
    if FAILS and number % FAILS == 0:
        await context.abort(grpc.StatusCode.UNAVAILABLE, f"version {VERSION} is broken")
    return VERSION.encode()


async def main() -> None:
    server = grpc.aio.server()
    handler = grpc.method_handlers_generic_handler("echo.v1.Echo", {"Say": grpc.unary_unary_rpc_method_handler(say)})
    server.add_generic_rpc_handlers([handler])
    servicer = health.aio.HealthServicer()
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(os.environ["MESH_LISTEN"])
    await server.start()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await server.stop(10)


sys.exit(asyncio.run(main()))
