"""Runs one job in a worker process of its own: what it does cannot hurt the agent, and ends with the task."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

from mesh import errors
from mesh.errors import DeadlineExceeded, Internal, MeshError, ResourceExhausted
from mesh.runtime import Child, ChildSpec, open_child

SECONDS = 30
MEGABYTES = 2_048

_COMMAND = (sys.executable, "-m", "services.von_neumann.worker")
# One thread for each job: several jobs run at once, and threads of a BLAS count against the memory limit.
_ENV = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
_READ_BYTES = 64 << 10
_LONGEST_ANSWER = 8 << 20


async def compute(
    job: str, given: dict[str, Any], report: Callable[[float, str], None], *, seconds: int = SECONDS
) -> dict[str, Any]:
    """The result of a job.

    Raises the job's own error, DeadlineExceeded after `seconds`, ResourceExhausted when it takes too much memory.
    Cancelling kills the worker.
    """
    request = {"job": job, "input": given, "seconds": seconds, "megabytes": MEGABYTES}
    spec = ChildSpec(name=f"worker for {job}", command=_COMMAND, env=_ENV, pipe_stdio=True, grace=0.5)
    async with open_child(spec) as child:
        assert child.stdin is not None
        child.stdin.write(json.dumps(request).encode() + b"\n")
        try:
            async with asyncio.timeout(seconds):
                async for facts in _answers(child):
                    if "progress" in facts:
                        report(facts["progress"], facts["message"])
                    elif "error" in facts:
                        raise _error_of(facts["error"])
                    else:
                        result: dict[str, Any] = facts["result"]
                        return result
                code = await child.wait()
        except TimeoutError as err:
            raise _too_long(job, seconds) from err
    raise _explain_end(job, code, seconds)


async def _answers(child: Child) -> AsyncIterator[dict[str, Any]]:
    assert child.stdout is not None
    rest = bytearray()
    while chunk := await child.stdout.read(_READ_BYTES):
        rest += chunk
        if len(rest) > _LONGEST_ANSWER:
            raise ResourceExhausted(
                "The result is too long.", reason="TOO_LARGE", fix="Ask for something smaller.", retryable=False
            )
        *lines, remaining = rest.split(b"\n")
        rest = bytearray(remaining)
        for line in lines:
            yield json.loads(line)


def _error_of(facts: dict[str, str]) -> MeshError:
    kind: type[MeshError] = getattr(errors, facts["kind"], Internal)
    return kind(facts["summary"], reason=facts["reason"], field=facts["field"], fix=facts["fix"])


def _too_long(job: str, seconds: int) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"{job} took longer than {seconds} seconds, which is all that it may.",
        reason="TOO_LONG",
        fix="Make the expression simpler, or take fewer samples.",
    )


def _explain_end(job: str, code: int, seconds: int) -> MeshError:
    """A worker that ended without an answer: killed by its limit of CPU time (SIGXCPU, SIGKILL), or broken."""
    if code in {-24, -9}:
        return _too_long(job, seconds)
    return ResourceExhausted(
        f"The worker for {job} ended with status {code}, probably for want of memory.",
        reason="WORKER_DIED",
        fix="Make the task smaller.",
        retryable=False,
    )
