"""Runs jobs in worker processes: what a job does cannot hurt the agent, and ends with its task.

run ──> the idle worker, or a new one ──JSON lines──> job
          └── idle again after an answer; ended after a limit, a cancellation, or some time without work
"""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

from mesh import errors
from mesh.errors import DeadlineExceeded, Internal, MeshError, ResourceExhausted
from mesh.runtime import Child, ChildSpec, open_background, open_child

SECONDS = 30
MEGABYTES = 1_024

# One thread for each job: several jobs run at once, and threads of a BLAS count against the memory limit.
_ENV = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
_READ_BYTES = 64 << 10
_LONGEST_ANSWER = 4 << 20
_IDLE_SECONDS = 30.0
_MOST_JOBS = 100
"""Jobs of one worker: sympy's caches only grow."""

Report = Callable[[float, str], None]


class Workers:
    """Keeps one worker for the next job. Made by `open_workers`."""

    def __init__(self, *, megabytes: int = MEGABYTES, idle_seconds: float = _IDLE_SECONDS) -> None:
        self._megabytes = megabytes
        self._idle_seconds = idle_seconds
        self._idle: _Worker | None = None
        self._changed = asyncio.Event()
        self._is_closed = False

    async def run(self, job: str, given: dict[str, Any], report: Report, *, seconds: int = SECONDS) -> dict[str, Any]:
        """The result of a job.

        Raises the job's own error, DeadlineExceeded after `seconds`, ResourceExhausted when it takes too much memory.
        Cancelling kills the worker.
        """
        worker = await self._take() or await _Worker.start(self._megabytes)
        is_fit = False
        try:
            async with asyncio.timeout(seconds):
                result = await worker.ask(job, given, report, seconds)
            is_fit = True
            return result
        except TimeoutError as err:
            raise _too_long(job, seconds) from err
        except ResourceExhausted:
            raise
        except MeshError:
            is_fit = worker.is_alive
            raise
        finally:
            # Also when this is cancelled: the worker has gone when the caller hears of it.
            await (self._give_back(worker) if is_fit else worker.close())

    async def _take(self) -> "_Worker | None":
        worker, self._idle = self._idle, None
        self._changed.set()
        if worker is not None and not worker.is_alive:
            await worker.close()
            return None
        return worker

    async def _give_back(self, worker: "_Worker") -> None:
        if self._idle is not None or self._is_closed or worker.jobs >= _MOST_JOBS:
            await worker.close()
            return
        self._idle = worker
        self._changed.set()

    async def _close_idle(self) -> None:
        """Close the idle worker when it has been idle for long, or has died; for ever."""
        while True:
            self._changed.clear()
            worker = self._idle
            if worker is None:
                await self._changed.wait()
                continue
            watched = [asyncio.ensure_future(work) for work in (worker.child.wait(), self._changed.wait())]
            try:
                await asyncio.wait(watched, timeout=self._idle_seconds, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for future in watched:
                    future.cancel()
            if self._idle is worker and not self._changed.is_set():
                self._idle = None
                await worker.close()

    async def _close(self) -> None:
        self._is_closed = True
        worker, self._idle = self._idle, None
        if worker is not None:
            await worker.close()


class _Worker:
    """A worker process; one job at a time."""

    def __init__(self, stack: AsyncExitStack, child: Child) -> None:
        self.child = child
        self.jobs = 0
        self._stack = stack

    @classmethod
    async def start(cls, megabytes: int) -> "_Worker":
        command = (sys.executable, "-m", "services.von_neumann.worker", str(megabytes))
        stack = AsyncExitStack()
        spec = ChildSpec(name="worker", command=command, env=_ENV, pipe_stdio=True, grace=0.5)
        return cls(stack, await stack.enter_async_context(open_child(spec)))

    @property
    def is_alive(self) -> bool:
        return self.child.returncode is None

    async def close(self) -> None:
        """Kill it and wait for that."""
        await self._stack.aclose()

    async def ask(self, job: str, given: dict[str, Any], report: Report, seconds: int) -> dict[str, Any]:
        self.jobs += 1
        assert self.child.stdin is not None
        request = {"job": job, "input": given, "seconds": seconds}
        self.child.stdin.write(json.dumps(request).encode() + b"\n")
        async with aclosing(self._answers()) as answers:
            async for facts in answers:
                if "progress" in facts:
                    report(facts["progress"], facts["message"])
                elif "error" in facts:
                    raise _error_of(facts["error"])
                else:
                    result: dict[str, Any] = facts["result"]
                    return result
        raise _explain_end(job, await self.child.wait(), seconds)

    async def _answers(self) -> AsyncGenerator[dict[str, Any], None]:
        """What it says, until it has ended. Nothing is left over: after its last line it says nothing unasked."""
        assert self.child.stdout is not None
        rest = bytearray()
        while chunk := await self.child.stdout.read(_READ_BYTES):
            rest += chunk
            if len(rest) > _LONGEST_ANSWER:
                raise ResourceExhausted("The result is too long.", fix="Ask for something smaller.", retryable=False)
            *lines, remaining = rest.split(b"\n")
            rest = bytearray(remaining)
            for line in lines:
                yield json.loads(line)


@asynccontextmanager
async def open_workers(*, megabytes: int = MEGABYTES, idle_seconds: float = _IDLE_SECONDS) -> AsyncIterator[Workers]:
    """Workers that are started when there is something to do; none is left at the end."""
    workers = Workers(megabytes=megabytes, idle_seconds=idle_seconds)
    try:
        async with open_background(workers._close_idle()):
            yield workers
    finally:
        await workers._close()


def _error_of(facts: dict[str, Any]) -> MeshError:
    kind: type[MeshError] = getattr(errors, facts["kind"], Internal)
    return kind(
        facts["summary"],
        reason=facts["reason"],
        field=facts["field"],
        fix=facts["fix"],
        retryable=facts["retryable"],
    )


def _too_long(job: str, seconds: int) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"{job} took longer than {seconds} seconds, which is all that it may.",
        fix="Make the expression simpler, or take fewer samples.",
    )


def _explain_end(job: str, code: int, seconds: int) -> MeshError:
    """A worker that ended without an answer: its processor time was used up, or its memory was."""
    if code == -signal.SIGXCPU:
        return _too_long(job, seconds)
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    return ResourceExhausted(
        f"The worker for {job} {how}, probably for want of memory.", fix="Make the task smaller.", retryable=False
    )
