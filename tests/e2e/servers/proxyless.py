"""gRPC's own xDS client, without a line of the mesh's code: calls echo for ever over a new connection each time.

Writes one line for each call to the file in $ANSWERS: the time, and the answer or why there is none.
"""

import asyncio
import os
import sys
import time
from pathlib import Path

import grpc
import grpc.experimental

CREDENTIALS = grpc.xds_channel_credentials(grpc.experimental.insecure_channel_credentials())
OWN = [("grpc.use_local_subchannel_pool", 1)]


async def call() -> str:
    async with grpc.aio.secure_channel("xds:///echo", CREDENTIALS, options=OWN) as channel:
        try:
            return (await channel.unary_unary("/echo.v1.Echo/Say")(b"0", timeout=10)).decode()
        except grpc.aio.AioRpcError as err:
            return f"FAILED {err.code().name} {err.details()}"


async def main() -> None:
    # One that stays: without it the client would leave the control plane between two calls.
    async with grpc.aio.secure_channel("xds:///echo", CREDENTIALS) as stays:
        stays.get_state(try_to_connect=True)
        with Path(os.environ["ANSWERS"]).open("a", buffering=1) as answers:
            while True:
                answers.write(f"{time.time():.3f} {await call()}\n")
                await asyncio.sleep(0.05)


sys.exit(asyncio.run(main()))
