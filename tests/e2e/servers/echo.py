"""A gRPC server without a line of the mesh's code: grpcio, its health service, and MESH_LISTEN.

`/echo.v1.Echo/Say` answers with its instance, the caller's certificate as Envoy tells it, and the request; it takes
as many milliseconds as the request's first word says. `/echo.v1.Echo/Count` streams that many numbers, 10 ms apart.
"""

import asyncio
import os
import signal
import sys

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

INSTANCE = os.environ["MESH_INSTANCE"]


async def say(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
    milliseconds = request.partition(b" ")[0]
    await asyncio.sleep(int(milliseconds or 0) / 1000)
    caller = dict(context.invocation_metadata()).get("x-forwarded-client-cert", "")
    return f"{INSTANCE} {caller}".encode()


async def count(request: bytes, context: grpc.aio.ServicerContext):
    for number in range(int(request)):
        yield b"%d" % number
        await asyncio.sleep(0.01)


async def main() -> None:
    server = grpc.aio.server()
    methods = {
        "Say": grpc.unary_unary_rpc_method_handler(say),
        "Count": grpc.unary_stream_rpc_method_handler(count),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("echo.v1.Echo", methods)])
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
