"""Sessions with a server of the handshake era, kept for those who come again.

    request --> lease(key) --+-- a session of that key that is free ------------------+--> Session
                             +-- room for one more: open it                           |
                             +-- full: close the one that is idle for the longest ----+
                             +-- full, and all are busy: ResourceExhausted

Each session runs in a task of its own, which owns the connection: when that ends, so does the session, and nothing of
its process is left.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from mesh.errors import MeshError, ResourceExhausted, Unavailable
from mesh.mcp.faults import leaf_of
from mesh.mcp.link import LinkPeer
from mesh.mcp.requests.exchange import Request
from mesh.mcp.requests.session import Session, SessionKey, client_info_of
from mesh.runtime import Backoff
from mesh.telemetry import get_logger

DEFAULT_MAX_SESSIONS = 32
DEFAULT_IDLE_SECONDS = 300.0

_log = get_logger(__name__)

OpenPeer = Callable[[], AbstractAsyncContextManager[LinkPeer]]


class _Slot:
    """A place in the pool, from the wish for a session to the end of its connection."""

    def __init__(self, key: SessionKey) -> None:
        self.key = key
        self.users = 0
        self.has_dialog = False
        self.idle_since = 0.0
        self.session: Session | None = None
        self.ready: asyncio.Future[Session] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.is_closing = False

    def close(self) -> None:
        """Begin to end the session."""
        self.is_closing = True
        if self.task is not None:
            self.task.cancel()


class SessionPool:
    """At most `max_sessions` sessions with one server. Use `open_session_pool`."""

    def __init__(
        self,
        server: str,
        open_peer: OpenPeer,
        tasks: asyncio.TaskGroup,
        *,
        max_sessions: int,
        idle_seconds: float,
        start_timeout: float,
        max_frame_bytes: int,
    ) -> None:
        self.on_change: Callable[[str], None] = lambda method: None
        self._server = server
        self._open_peer = open_peer
        self._tasks = tasks
        self._max_sessions = max_sessions
        self._idle_seconds = idle_seconds
        self._start_timeout = start_timeout
        self._max_frame_bytes = max_frame_bytes
        self._slots: set[_Slot] = set()
        self._by_key: dict[SessionKey, list[_Slot]] = {}
        self._loop = asyncio.get_running_loop()
        self._backoff = Backoff(0.1, 15.0)
        self._held_off: tuple[float, MeshError] | None = None

    def __len__(self) -> int:
        return len(self._slots)

    @asynccontextmanager
    async def lease(self, key: SessionKey, request: Request, *, is_dialog: bool = False) -> AsyncIterator[Session]:
        """Use a session of `key` while the block runs, opening one if need be.

        A dialog whose client can be asked something has no other dialog beside it. Raises ResourceExhausted when all
        sessions are busy, Unavailable when none can be opened.
        """
        is_exclusive = is_dialog and key.can_be_asked
        slot = self._find(key, is_exclusive)
        if slot is None:
            slot = await self._open(key, request, is_exclusive)
        slot.users += 1
        slot.has_dialog = slot.has_dialog or is_exclusive
        if slot.timer is not None:
            slot.timer.cancel()
            slot.timer = None
        try:
            yield slot.session if slot.session is not None else await asyncio.shield(slot.ready)
        finally:
            slot.users -= 1
            if is_exclusive:
                slot.has_dialog = False
            if not slot.users and not slot.is_closing:
                slot.idle_since = self._loop.time()
                slot.timer = self._loop.call_later(self._idle_seconds, slot.close)

    def close_all(self) -> None:
        """Begin to end all sessions."""
        for slot in self._slots:
            slot.close()

    def _find(self, key: SessionKey, is_exclusive: bool) -> _Slot | None:
        for slot in self._by_key.get(key, ()):
            is_open = not slot.is_closing and not (slot.session is not None and slot.session.is_over)
            if is_open and not (is_exclusive and slot.has_dialog):
                return slot
        return None

    async def _open(self, key: SessionKey, request: Request, is_exclusive: bool) -> _Slot:
        while len(self._slots) >= self._max_sessions:
            await self._make_room()
            # Somebody else may have been here meanwhile.
            slot = self._find(key, is_exclusive)
            if slot is not None:
                return slot
        if self._held_off is not None and self._loop.time() < self._held_off[0]:
            raise self._held_off[1]
        slot = _Slot(key)
        # Whoever waits for it takes its error; there may be nobody.
        slot.ready.add_done_callback(lambda ready: ready.cancelled() or ready.exception())
        self._slots.add(slot)
        self._by_key.setdefault(key, []).append(slot)
        slot.task = self._tasks.create_task(self._run(slot, json.loads(key.capabilities), client_info_of(request)))
        return slot

    async def _make_room(self) -> None:
        """End the session that is idle for the longest, and wait until nothing of it is left."""
        closing = [slot for slot in self._slots if slot.is_closing and slot.task is not None]
        if not closing:
            idle = [slot for slot in self._slots if not slot.users and slot.session is not None]
            if not idle:
                raise ResourceExhausted(
                    f"All {self._max_sessions} sessions with MCP server {self._server!r} are busy.",
                    reason="MCP_TOO_MANY_SESSIONS",
                    fix="Call again when others have finished, or raise the bridge's --max-sessions.",
                )
            oldest = min(idle, key=lambda slot: slot.idle_since)
            oldest.close()
            closing = [oldest]
        await asyncio.wait(
            [slot.task for slot in closing if slot.task is not None], return_when=asyncio.FIRST_COMPLETED
        )

    async def _run(self, slot: _Slot, capabilities: dict[str, object], client: dict[str, object]) -> None:
        """Hold a session's connection open until the server ends it or `slot.close` is called."""
        try:
            async with self._open_peer() as peer:
                await self._serve(slot, peer, capabilities, client)
        except (MeshError, OSError, ExceptionGroup) as err:
            self._fail(slot, leaf_of(err))
        finally:
            slot.is_closing = True
            self._slots.discard(slot)
            slots = self._by_key[slot.key]
            slots.remove(slot)
            if not slots:
                del self._by_key[slot.key]
            if slot.timer is not None:
                slot.timer.cancel()
            if not slot.ready.done():
                slot.ready.set_exception(self._not_opened("the bridge has closed it"))

    async def _serve(
        self, slot: _Slot, peer: LinkPeer, capabilities: dict[str, object], client: dict[str, object]
    ) -> None:
        session = Session(self._server, peer, max_bytes=self._max_frame_bytes, on_change=self._tell_change)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(session.run())
            try:
                await session.start(capabilities, client, timeout=self._start_timeout)
            except MeshError:
                running.cancel()
                raise
            self._backoff.reset()
            self._held_off = None
            slot.session = session
            slot.ready.set_result(session)
            _log.info("mcp_session_opened", mcp_server=self._server, sessions=len(self._slots))
            await running
            slot.is_closing = True
        _log.info("mcp_session_ended", mcp_server=self._server)

    def _tell_change(self, method: str) -> None:
        self.on_change(method)

    def _fail(self, slot: _Slot, err: BaseException) -> None:
        error = err if isinstance(err, MeshError) else self._not_opened(f"{type(err).__name__}: {err}")
        _log.warning("mcp_session_failed", mcp_server=self._server, error=error.summary)
        if not slot.ready.done():
            # A server that cannot be started is not tried again for every request.
            self._held_off = (self._loop.time() + self._backoff.next(), error)
            slot.ready.set_exception(error)

    def _not_opened(self, why: str) -> Unavailable:
        return Unavailable(
            f"Opening a session with MCP server {self._server!r} failed: {why}.", reason="MCP_SERVER_NOT_READY"
        )


@asynccontextmanager
async def open_session_pool(
    server: str,
    open_peer: OpenPeer,
    *,
    max_frame_bytes: int,
    max_sessions: int = DEFAULT_MAX_SESSIONS,
    idle_seconds: float = DEFAULT_IDLE_SECONDS,
    start_timeout: float = 10.0,
) -> AsyncIterator[SessionPool]:
    """Keep sessions while the block runs; on exit all of them are closed, and their processes gone."""
    async with asyncio.TaskGroup() as tasks:
        pool = SessionPool(
            server,
            open_peer,
            tasks,
            max_sessions=max_sessions,
            idle_seconds=idle_seconds,
            start_timeout=start_timeout,
            max_frame_bytes=max_frame_bytes,
        )
        try:
            yield pool
        finally:
            pool.close_all()
