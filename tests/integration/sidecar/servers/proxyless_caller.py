"""gRPC's own xDS client, without a line of the mesh's code: calls echo for ever, each time over a new connection.

Writes one line for each call to the file in $ANSWERS: the answer of the service, or `FAILED` and why.
"""

import asyncio
import os
import sys
from pathlib import Path

import grpc
import grpc.experimental

CREDENTIALS = grpc.xds_channel_credentials(grpc.experimental.insecure_channel_credentials())


async def call() -> str:
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel("xds:///echo", CREDENTIALS, options=options) as channel:
        try:
            return (await channel.unary_unary("/echo.v1.Echo/Say")(b"0", timeout=10)).decode()
        except grpc.aio.AioRpcError as err:
            return f"FAILED {err.code().name} {err.details()}"


async def main() -> None:
    # A channel that stays: without one the client would leave the control plane between two calls.
    async with grpc.aio.secure_channel("xds:///echo", CREDENTIALS) as stays:
        with Path(os.environ["ANSWERS"]).open("a", buffering=1) as answers:
            stays.get_state(try_to_connect=True)
            while True:
                answers.write(f"{await call()}\n")
                await asyncio.sleep(0.05)


sys.exit(asyncio.run(main()))
