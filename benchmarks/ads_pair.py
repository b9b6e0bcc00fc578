"""An ADS server and its proxies, each in a process of its own, steered by lines of JSON."""

import asyncio
import contextlib
import json
import shutil
import sys
import tempfile
from asyncio.subprocess import PIPE, Process, create_subprocess_exec
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.mesh_under_test import ROOT

_TIMEOUT = 300.0
_STOP_TIMEOUT = 30.0
_LONGEST_LINE = 1 << 20


@dataclass(frozen=True)
class Steered:
    """A process that answers each line with one line."""

    process: Process

    async def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command and give its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        return await self.answer()

    async def end(self) -> dict[str, Any]:
        """End its standard input; gives what it says then."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return await self.answer()

    async def answer(self) -> dict[str, Any]:
        """The next line of the process."""
        assert self.process.stdout is not None
        async with asyncio.timeout(_TIMEOUT):
            line = await self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a process of the benchmark has ended with status {await self.process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found


@dataclass(frozen=True)
class Pair:
    """The server, its proxies, and how long it took until all proxies had everything (seconds)."""

    server: Steered
    load: Steered
    cold_start: float


@contextlib.asynccontextmanager
async def running_pair(
    services: int,
    callers: Mapping[str, Sequence[str]],
    proxies: Mapping[str, int],
    *,
    instances: int = 3,
    modes: Sequence[str] = (),
) -> AsyncIterator[Pair]:
    """`services` services of `instances` instances; `callers` with their upstreams; `proxies` of each caller.

    With mode "bare" both ends are gRPC and nothing else, see benchmarks.bare_server; with "shared" the proxies of one
    caller share a connection.
    """
    module = "benchmarks.bare_server" if "bare" in modes else "benchmarks.ads_server"
    directory = Path(tempfile.mkdtemp(prefix="am-", dir="/tmp"))
    mesh = directory / "mesh.json"
    mesh.write_text(json.dumps({"services": services, "instances": instances, "callers": dict(callers)}))
    try:
        async with contextlib.AsyncExitStack() as stack:
            server = await stack.enter_async_context(running(module, str(directory), str(mesh)))
            port = (await server.answer())["port"]
            load = await stack.enter_async_context(
                running("benchmarks.ads_load", str(directory), str(port), json.dumps(dict(proxies)), *modes)
            )
            yield Pair(server, load, (await load.answer())["seconds"])
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.asynccontextmanager
async def running(*module: str) -> AsyncIterator[Steered]:
    """A Python module as a process that ends when its standard input does."""
    process = await create_subprocess_exec(
        sys.executable, "-m", *module, stdin=PIPE, stdout=PIPE, cwd=ROOT, limit=_LONGEST_LINE
    )
    try:
        yield Steered(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(_STOP_TIMEOUT):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
