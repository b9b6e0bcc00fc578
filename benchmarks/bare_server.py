"""`python -m benchmarks.bare_server DIRECTORY MESH`: what benchmarks.ads_server does, without a control plane.

A plain grpc.aio server, by mutual TLS, that sends the same bytes to every stream at each {"change": ...} and waits for
an answer of each. What it takes for that is the floor under every control plane in Python.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

from benchmarks.ads_load import METHOD
from benchmarks.ads_server import TRUST_DOMAIN, cost, open_stdin, write_certificates
from mesh.identity import CertificateAuthority, open_server_credentials
from mesh.runtime import keep_heap

_MESSAGE = bytes(400)
"""About as long as a response with three endpoints."""
_PAUSE = 0.002


class Fanout:
    """Sends to all streams, and counts their answers."""

    def __init__(self) -> None:
        self._wakes: set[asyncio.Event] = set()
        self._started = 0.0
        self._last = 0.0
        self._answers = 0

    async def serve(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        """One stream."""
        wake = asyncio.Event()
        reading = aiter(requests)
        await anext(reading)
        await context.write(_MESSAGE)
        self._wakes.add(wake)
        try:
            while True:
                await wake.wait()
                wake.clear()
                await context.write(_MESSAGE)
                await anext(reading)
                self._answers += 1
                self._last = time.monotonic()
        finally:
            self._wakes.discard(wake)

    async def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        """Carry out one command."""
        if "change" in command:
            self._answers, self._started = 0, time.monotonic()
            for wake in self._wakes:
                wake.set()
            return {}
        while self._answers < command.get("acked", 0):  # noqa: ASYNC110 - many write it
            await asyncio.sleep(_PAUSE)
        return cost() | {"seconds": self._last - self._started}


async def main(directory: Path, mesh: dict[str, Any]) -> None:
    """Serve until standard input ends."""
    authority = CertificateAuthority.open(directory / "ca", trust_domain=TRUST_DOMAIN)
    write_certificates(authority, directory, list(mesh["callers"]))
    lines = await open_stdin()
    fanout = Fanout()
    server = grpc.aio.server()
    service, _, method = METHOD.lstrip("/").partition("/")
    handler: Any = grpc.stream_stream_rpc_method_handler(fanout.serve)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    async with open_server_credentials(authority, require_client_certificate=True) as tls:
        port = server.add_secure_port("127.0.0.1:0", tls.credentials())
        await server.start()
        keep_heap()
        print(json.dumps({"port": port}), flush=True)
        while line := await lines.readline():
            print(json.dumps(await fanout.obey(json.loads(line))), flush=True)
        await server.stop(0.5)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())))
