"""Processes that lost their parent below this one.

A child may leave its process group (setsid) and start processes that outlive it. They would go to process 1, and
nobody would end them. So this process declares itself their subreaper (prctl(2), PR_SET_CHILD_SUBREAPER) and gets them
as children of its own.

    open_child  marks the environment of what it starts: MESH_CHILD=OUTER/TOKEN, which descendants inherit
    an orphan   is a child of ours that carries one of our tokens and was not started by us
    its end     comes with the end of the child whose token it carries; while that child lives, a daemon may live, too

Children that other code of this process started (asyncio, subprocess.run) carry no token of ours and are never touched
nor waited for. No pid is signalled that somebody else could have got meanwhile: a child's pid stays its own until it is
reaped, orphans are reaped only here, and each is looked at again before each signal. The price: an orphan that led a
session of its own and died before anyone looked cannot be told from such a child, and stays a zombie.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from mesh.runtime.processes import Process, list_processes, read_environment, read_process
from mesh.runtime.signals import undo_inherited_signals
from mesh.runtime.spawn import is_subreaper, set_subreaper
from mesh.telemetry import get_logger

MARK = "MESH_CHILD"

_POLL_SECONDS = 0.02

_log = get_logger(__name__)


class Orphanage:
    """The children of this process that it did not start. There is one per process."""

    def __init__(self) -> None:
        self.is_open = False
        self._random = os.urandom(6).hex()
        self._counter = 0
        self._sessions: dict[int, str] = {}
        self._known: dict[tuple[int, int], str] = {}

    def new_token(self) -> str:
        """A token for one child; unique in this process and, by chance, among all."""
        self._counter += 1
        return f"{self._random}.{self._counter}"

    def mark(self, token: str) -> str:
        """The value of MARK for a child: the chain of tokens, outermost first."""
        outer = os.environ.get(MARK, "")
        return f"{outer}/{token}" if outer else token

    def note_start(self, pid: int, token: str) -> None:
        """Remember a child of ours, which leads a session of its own."""
        self._sessions[pid] = token

    def forget(self, pid: int) -> None:
        """Forget a child of ours; called when it is reaped."""
        self._sessions.pop(pid, None)

    def sweep(self) -> None:
        """Take in new orphans and reap dead ones."""
        for process in self._orphans():
            if process.is_zombie:
                _reap(process.pid)
        alive = {(process.pid, process.started) for process in self._own_children()}
        self._known = {key: token for key, token in self._known.items() if key in alive}

    async def end(self, token: str, *, grace: float) -> None:
        """End the orphans that carry `token`: SIGTERM, after `grace` seconds SIGKILL; return when they are reaped.

        Outside of `adopt_orphans` orphans are not ours, but process 1 gets them all the same: dead ones are reaped.
        """
        if not self.is_open:
            self.sweep()
            return
        loop = asyncio.get_running_loop()
        kill_at = loop.time() + grace
        give_up_at = kill_at + 5.0
        told: set[int] = set()
        # Ending one may bring up others: its own children. So look again until there is none.
        while orphans := [process for process in self._orphans() if self._token_of(process) == token]:
            now = loop.time()
            for process in orphans:
                if process.is_zombie:
                    _reap(process.pid)
                elif now >= kill_at:
                    _signal(process, signal.SIGKILL)
                elif process.pid not in told:
                    told.add(process.pid)
                    _log.info("orphan_ended", pid=process.pid)
                    _signal(process, signal.SIGTERM)
            if now >= give_up_at:
                _log.warning("orphans_left", pids=[process.pid for process in orphans])
                return
            await asyncio.sleep(_POLL_SECONDS)

    def _own_children(self) -> Iterable[Process]:
        own = os.getpid()
        return (process for process in list_processes() if process.parent == own and process.pid not in self._sessions)

    def _orphans(self) -> list[Process]:
        return [process for process in self._own_children() if self._token_of(process)]

    def _token_of(self, process: Process) -> str:
        key = (process.pid, process.started)
        token = self._known.get(key, "")
        if not token:
            # A dead process has no environment any more, but still its session.
            token = self._marked_token(process.pid) or self._sessions.get(process.session, "")
            if token:
                self._known[key] = token
        return token

    def _marked_token(self, pid: int) -> str:
        chain = read_environment(pid, MARK).split("/")
        return next((token for token in reversed(chain) if token.startswith(f"{self._random}.")), "")


orphanage = Orphanage()
"""The one of this process."""


@asynccontextmanager
async def adopt_orphans() -> AsyncIterator[None]:
    """Be the parent of all descendants that lose theirs, and end them with the child that they come from.

    While the block runs, dead orphans are reaped at once, and the end of an `open_child` block also ends what escaped
    from the child's process group. Where the kernel refuses, or inside another such block, nothing changes. After it
    orphans go again to where they went before: nobody would reap them here.
    """
    was_subreaper = is_subreaper()
    if orphanage.is_open or not set_subreaper(True):
        yield
        return
    orphanage.is_open = True
    undo_inherited_signals()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGCHLD, orphanage.sweep)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGCHLD)
        set_subreaper(was_subreaper)
        orphanage.sweep()
        orphanage.is_open = False


def _signal(process: Process, number: signal.Signals) -> None:
    now = read_process(process.pid)
    if now is not None and now.started == process.started and now.parent == os.getpid():
        os.kill(process.pid, number)


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return
