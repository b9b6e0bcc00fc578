"""A server made with mesh.rpc: `/echo.v1.Echo/Say` answers with who calls, by call_context()."""

import os
import sys
from typing import Any

import grpc

from mesh.rpc import ServerSettings, call_context, open_server
from mesh.runtime import Stop, run_program


async def say(request: bytes, context: Any) -> bytes:
    return str(call_context().caller).encode()


async def main(stop: Stop) -> None:
    methods = {"Say": grpc.unary_unary_rpc_method_handler(say)}
    handler = grpc.method_handlers_generic_handler("echo.v1.Echo", methods)
    settings = ServerSettings(service="told", listen=os.environ["MESH_LISTEN"])
    async with open_server(settings, [], generic_handlers=[handler]) as server:
        await server.set_serving(True)
        await stop.wait()


sys.exit(run_program(main, service="told"))
