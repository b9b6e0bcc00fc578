"""One child process, and the end of it and of all that belongs to it.

asyncio's own subprocess support is not used. Its child watcher reaps a child the moment it dies, and from then on its
pid, which is also the number of its process group, may belong to anybody: a signal to the group could hit a stranger.
Here a pidfd tells of the exit, and the child stays a zombie, which keeps the number, until its group is empty.
"""

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import threading
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from mesh.runtime.orphans import MARK, orphanage
from mesh.runtime.output import KEPT_LINES, OutputLog
from mesh.runtime.processes import has_living_member
from mesh.runtime.spawn import spawn
from mesh.telemetry import get_logger

_READ_BYTES = 64 * 1024
_PIPE_LIMIT = 64 * 1024
_FIRST_POLL_SECONDS = 0.005
_LONGEST_POLL_SECONDS = 0.05
_LAST_WORDS_SECONDS = 0.2
_KILLED_SECONDS = 5.0
_NOTHING: Mapping[str, str] = MappingProxyType({})

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """How to run a child.

    `env` is added to this process's environment. With `pipe_stdio` its stdin and stdout are streams for the owner;
    otherwise stdin is empty and stdout is logged like stderr. `grace` is the seconds between SIGTERM and SIGKILL.
    `memory_bytes` bounds the data of it and of each process below it (RLIMIT_DATA: further memory is refused to it),
    `cpu_seconds` the processor time of each in all its life (RLIMIT_CPU: then it is killed); 0: no bound.
    """

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    cwd: str | None = None
    pipe_stdio: bool = False
    grace: float = 5.0
    memory_bytes: int = 0
    cpu_seconds: int = 0


class Child:
    """A running, or ended, child process. Made by `open_child`."""

    def __init__(self, spec: ChildSpec, process: subprocess.Popen[bytes], token: str) -> None:
        self.stdin: asyncio.StreamWriter | None = None
        self.stdout: asyncio.StreamReader | None = None
        self._spec = spec
        self._process = process
        self._token = token
        self._loop = asyncio.get_running_loop()
        self._exited: asyncio.Future[int] = self._loop.create_future()
        self._hurry = asyncio.Event()
        self._last: deque[bytes] = deque(maxlen=KEPT_LINES)
        self._readers: list[asyncio.Task[None]] = []
        self._transports: list[asyncio.BaseTransport] = []

    @property
    def pid(self) -> int:
        """The process id, which is also that of its process group and session."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, the negative number of the signal that ended it, or None while it runs."""
        return self._exited.result() if self._exited.done() else None

    @property
    def last_output(self) -> tuple[str, ...]:
        """The last lines that it printed and the owner does not read itself, oldest first, at most 20."""
        return tuple(line.decode(errors="replace") for line in self._last)

    async def wait(self) -> int:
        """Return the exit status when it has exited; what it printed last has been read then.

        Processes that it left behind may hold its pipes open for ever and are not waited for.
        """
        code = await asyncio.shield(self._exited)
        if self._readers:
            await asyncio.wait(self._readers, timeout=_LAST_WORDS_SECONDS)
        return code

    async def _connect(self) -> None:
        self._watch_exit()
        process = self._process
        assert process.stdout is not None
        assert process.stderr is not None
        if self._spec.pipe_stdio:
            assert process.stdin is not None
            self.stdin = await self._writer(process.stdin)
            self.stdout = await self._reader(process.stdout)
        else:
            self._readers.append(asyncio.create_task(self._log_lines("stdout", await self._reader(process.stdout))))
        self._readers.append(asyncio.create_task(self._log_lines("stderr", await self._reader(process.stderr))))

    async def _reader(self, pipe: object) -> asyncio.StreamReader:
        reader = asyncio.StreamReader(limit=_PIPE_LIMIT)
        transport, _ = await self._loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        self._transports.append(transport)
        return reader

    async def _writer(self, pipe: object) -> asyncio.StreamWriter:
        protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader())
        transport, _ = await self._loop.connect_write_pipe(lambda: protocol, pipe)
        self._transports.append(transport)
        return asyncio.StreamWriter(transport, protocol, None, self._loop)

    async def _log_lines(self, stream: str, reader: asyncio.StreamReader) -> None:
        lines = OutputLog(self._spec.name, stream, self._last)
        try:
            while chunk := await reader.read(_READ_BYTES):
                lines.feed(chunk)
        finally:
            lines.close()

    def _watch_exit(self) -> None:
        try:
            pidfd = os.pidfd_open(self.pid)
        except OSError:
            # Kernels before 5.3, and containers whose seccomp profile does not know the call.
            threading.Thread(target=self._wait_in_thread, name=f"wait-{self.pid}", daemon=True).start()
            return

        def on_exit() -> None:
            self._loop.remove_reader(pidfd)
            os.close(pidfd)
            self._note_exit()

        self._loop.add_reader(pidfd, on_exit)

    def _wait_in_thread(self) -> None:
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        self._loop.call_soon_threadsafe(self._note_exit)

    def _note_exit(self) -> None:
        ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        if ended is not None and not self._exited.done():
            self._exited.set_result(ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status)

    async def _end(self) -> None:
        """End the group and what escaped from it, and reap the child. Not to be cancelled: see `_hurry`."""
        hurried = asyncio.ensure_future(self._hurry.wait())
        deadline = self._loop.time() + self._spec.grace
        try:
            if not await self._signal_group(signal.SIGTERM, until=deadline, unless=hurried):
                _log.warning("child_killed", child=self._spec.name, pid=self.pid, grace=self._spec.grace)
                await self._signal_group(signal.SIGKILL, until=self._loop.time() + _KILLED_SECONDS)
            left = 0.0 if hurried.done() else max(0.0, deadline - self._loop.time())
            await orphanage.end(self._token, grace=left)
            if self._readers:
                await asyncio.wait(self._readers, timeout=_LAST_WORDS_SECONDS)
        finally:
            hurried.cancel()
            # First, so that whatever fails in closing pipes leaves no zombie.
            self._reap()
            self._close_pipes()
            await asyncio.gather(*self._readers, return_exceptions=True)

    async def _signal_group(
        self, number: signal.Signals, *, until: float, unless: asyncio.Future[Literal[True]] | None = None
    ) -> bool:
        """Signal all of the group and tell whether all of it has gone before `until`, and before `unless` is done."""
        if not self._is_group_alive():
            return True
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)
        pause = _FIRST_POLL_SECONDS
        while self._is_group_alive():
            left = until - self._loop.time()
            if left <= 0 or (unless is not None and unless.done()):
                return False
            # The kernel tells of the child's exit; only for what it left behind there is nothing but looking again.
            signs: list[asyncio.Future[Any]] = [] if unless is None else [unless]
            if not self._exited.done():
                await asyncio.wait((*signs, self._exited), timeout=left, return_when=asyncio.FIRST_COMPLETED)
            elif signs:
                await asyncio.wait(signs, timeout=min(left, pause))
            else:
                await asyncio.sleep(min(left, pause))
            pause = min(pause * 2, _LONGEST_POLL_SECONDS)
        return True

    def _is_group_alive(self) -> bool:
        return not self._exited.done() or has_living_member(self.pid)

    def _close_pipes(self) -> None:
        for transport in self._transports:
            if isinstance(transport, asyncio.WriteTransport):
                # Not close(): it would wait for a reader that has gone. And nothing where the pipe is closed already,
                # by the owner or because its reader went: abort() fails then.
                if not transport.is_closing() or transport.get_write_buffer_size():
                    transport.abort()
            else:
                transport.close()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def _reap(self) -> None:
        """Reap the child, which is dead by now unless the kernel holds it in an uninterruptible call."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0:
            _log.error("child_not_reaped", child=self._spec.name, pid=self.pid)
            return
        code = os.waitstatus_to_exitcode(status)
        # Popen must not wait for it again: the pid may be somebody else's.
        self._process.returncode = code
        orphanage.forget(self.pid)
        if not self._exited.done():
            self._exited.set_result(code)


@asynccontextmanager
async def open_child(spec: ChildSpec) -> AsyncIterator[Child]:
    """Run a child while the block runs.

    It leads a session and process group of its own and is killed by the kernel when this process dies. At the end of
    the block, however it comes (an error, a cancellation), its group gets SIGTERM, after `spec.grace` seconds
    SIGKILL, and it is reaped; a second cancellation kills at once. Raises InvalidInput when the command cannot be
    started, with the field at fault.
    """
    token = orphanage.new_token()
    env = {**os.environ, **spec.env, MARK: orphanage.mark(token)}
    process = spawn(spec.command, name=spec.name, env=env, cwd=spec.cwd, pipe_stdin=spec.pipe_stdio)
    orphanage.note_start(process.pid, token)
    _limit(process.pid, spec)
    child = Child(spec, process, token)
    try:
        await child._connect()
        _log.debug("child_started", child=spec.name, pid=child.pid)
        yield child
    finally:
        await _to_the_end(child)


def _limit(pid: int, spec: ChildSpec) -> None:
    """Set the limits of a child that has just been started: what it starts has them, too."""
    for kind, most in ((resource.RLIMIT_DATA, spec.memory_bytes), (resource.RLIMIT_CPU, spec.cpu_seconds)):
        if most:
            with contextlib.suppress(ProcessLookupError):  # it has ended at once
                resource.prlimit(pid, kind, (most, most))


async def _to_the_end(child: Child) -> None:
    """End the child whatever happens; a cancellation makes it quicker and is passed on afterwards."""
    ending = asyncio.create_task(child._end())
    canceled: asyncio.CancelledError | None = None
    while not ending.done():
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError as err:
            canceled = err
            child._hurry.set()
    if canceled is not None:
        raise canceled
    ending.result()
