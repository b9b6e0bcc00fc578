"""A program that serves two slow methods until SIGTERM; argument: the socket, and the seconds of its drain."""

import asyncio
import sys

import grpc

from mesh.rpc import ServerSettings, open_server
from mesh.runtime import run_program


async def slow(request, context):
    await asyncio.sleep(float(request))
    return b"finished"


async def count(request, context):
    for number in range(int(request)):
        yield b"%d" % number
        await asyncio.sleep(0.01)


async def main(stop):
    methods = {
        "Slow": grpc.unary_unary_rpc_method_handler(slow),
        "Count": grpc.unary_stream_rpc_method_handler(count),
    }
    settings = ServerSettings("draining", f"unix:{sys.argv[1]}", drain_grace=float(sys.argv[2]))
    generic = grpc.method_handlers_generic_handler("test.v1.Slow", methods)
    async with open_server(settings, [], generic_handlers=[generic]) as server:
        await server.set_serving(True)
        await stop.wait()


sys.exit(run_program(main, service="draining"))
