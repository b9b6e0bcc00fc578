"""`python -m benchmarks.echo_server`: a bare grpc.aio server at MESH_LISTEN that gives back what it gets."""

import asyncio
import os
import signal
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

METHOD = "/bench.v1.Echo/Say"


async def _say(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    return request


async def main() -> None:
    """Serve until SIGTERM."""
    server = grpc.aio.server()
    service, _, method = METHOD.lstrip("/").partition("/")
    handler: Any = grpc.unary_unary_rpc_method_handler(_say)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    servicer = health.aio.HealthServicer()
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(os.environ["MESH_LISTEN"])
    await server.start()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await server.stop(5)


if __name__ == "__main__":
    asyncio.run(main())
