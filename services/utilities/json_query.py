"""JSON queries by jq, each in a process of its own: a jq program can run for ever, fill the memory or read files."""

import asyncio
import json
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import anyio
import anyio.abc
from pydantic import Field, JsonValue

from services.tool_server import InvalidArgument, Result

__all__ = ["JsonQueries", "QueryLimits", "QueryResult"]

MAX_DOCUMENT = 4_000_000

_WORKER = Path(__file__).with_name("jq_worker.py")
_OUT_OF_TIME = (-signal.SIGXCPU, -signal.SIGKILL)
_GRACE_SECONDS = 1
"""What a query may take on the clock beyond its CPU time, to start and when the machine is busy."""


@dataclass(frozen=True, slots=True)
class QueryLimits:
    """What a query may use: CPU seconds, bytes of memory, and of results: how many, characters of JSON, and levels."""

    seconds: int = 5
    memory: int = 512 << 20
    results: int = 1_000
    output: int = 1_000_000
    depth: int = 100


class QueryResult(Result):
    """What the query gave, in order; `is_cut` tells that there was more than the limits allow."""

    results: list[JsonValue]
    is_cut: bool


class JsonQueries:
    """Runs queries, a few at a time; those beyond wait for their turn."""

    def __init__(self, limits: QueryLimits | None = None, at_once: int = 4) -> None:
        self._limits = limits or QueryLimits()
        self._turns = asyncio.Semaphore(at_once)

    async def query_json(
        self,
        document: Annotated[str, Field(max_length=MAX_DOCUMENT, description="the JSON document, as text")],
        query: Annotated[
            str, Field(min_length=1, max_length=10_000, description="a jq program, for example .items[].name")
        ],
    ) -> QueryResult:
        """Query a JSON document with jq. At most 1000 results and 1 MB of them come back; a query may take 5 seconds.

        A cancelled query ends its process.
        """
        limits = self._limits
        header = {
            "query": query,
            "results": limits.results,
            "output": limits.output,
            "depth": limits.depth,
            "seconds": limits.seconds,
            "memory": limits.memory,
        }
        async with self._turns:
            status, output = await self._run(json.dumps(header).encode() + b"\n" + document.encode())
        if not output:
            raise self._too_long() if status in _OUT_OF_TIME else self._too_much()
        answer = json.loads(output)
        if "error" in answer:
            fix = "Send one JSON value." if answer["field"] == "document" else "See the manual of jq."
            raise InvalidArgument(answer["field"], f"{answer['error']}.", fix)
        return QueryResult(results=answer["results"], is_cut=answer["is_cut"])

    async def _run(self, request: bytes) -> tuple[int, bytes]:
        """The exit status and the output; the process has ended and is reaped however this ends."""
        # Shielded: a process that is cancelled while it starts is killed, but nobody waits for it to be gone.
        with anyio.CancelScope(shield=True):
            # No environment: jq programs can read it. No stderr: they can write to it without end.
            process = await anyio.open_process(
                [sys.executable, "-I", str(_WORKER)], stderr=subprocess.DEVNULL, env={}, start_new_session=True
            )
        try:
            # Leaving the process waits until it is gone.
            async with process, asyncio.timeout(self._limits.seconds + _GRACE_SECONDS):
                try:
                    return await _converse(process, request)
                finally:
                    if process.returncode is None:
                        process.kill()
        except TimeoutError as err:
            raise self._too_long() from err

    def _too_long(self) -> InvalidArgument:
        return InvalidArgument(
            "query",
            f"it needs more than {self._limits.seconds} seconds.",
            "Make it simpler, or limit it with limit(10; ...).",
        )

    def _too_much(self) -> InvalidArgument:
        return InvalidArgument(
            "query",
            f"it needs more than {self._limits.memory >> 20} MB of memory, or nests without end.",
            "Make it simpler, or limit it with limit(10; ...).",
        )


async def _converse(process: anyio.abc.Process, request: bytes) -> tuple[int, bytes]:
    assert process.stdin is not None
    assert process.stdout is not None
    # A worker that ends before it has read everything says why by its status.
    with suppress(anyio.BrokenResourceError):
        await process.stdin.send(request)
    await process.stdin.aclose()
    output = b"".join([part async for part in process.stdout])
    return await process.wait(), output
