"""Keeps one connection to an MCP server open: warm, shared, reopened with backoff when it ends.

callers --> Upstream.connection() --> Connection (shared)
                ^
Upstream.run(): open, negotiate, serve, end, wait, open again ...
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from mesh.errors import InvalidInput, MeshError, Unavailable
from mesh.mcp.connection import NOT_READY, Connection, open_connection
from mesh.mcp.faults import leaf_of
from mesh.mcp.negotiate import Era
from mesh.mcp.wire import OpenWire
from mesh.runtime import Backoff
from mesh.telemetry import get_logger

READY_WAIT = 10.0
"""Seconds that a call waits at most for a server that is being started."""

DOWN_AFTER = 3
"""Failed starts in a row after which the server counts as down: health says so, and calls fail at once."""

_log = get_logger(__name__)

OnHealth = Callable[[bool], Awaitable[None]]


class Upstream:
    """The one MCP server behind a bridge."""

    def __init__(
        self,
        server: str,
        open_wire: OpenWire,
        *,
        backoff: Backoff,
        start_timeout: float = 10.0,
        first_attempts: int | None = None,
        steady_after: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is started yet; see `run`.

        `first_attempts` starts may fail before the first good one, None: any number. `steady_after` is the number of
        seconds after which a connection counts as good even though nobody used it.
        """
        self.server = server
        self._open_wire = open_wire
        self._backoff = backoff
        self._start_timeout = start_timeout
        self._first_attempts = first_attempts
        self._steady_after = steady_after
        self._clock = clock
        self._connection: Connection | None = None
        self._changed = asyncio.Event()
        self._failures = 0
        self._error: BaseException | None = None
        self._era: Era | None = None

    async def run(self, on_health: OnHealth) -> None:
        """Keep the connection open until cancelled; `on_health` is told whenever the server comes up or is given up.

        Raises InvalidInput when the very first start shows that there is nothing to start, and Unavailable with reason
        MCP_SERVER_NOT_READY when all of the first attempts have failed.
        """
        has_started = False
        while True:
            opened_at = self._clock()
            answers = 0
            try:
                async with open_connection(
                    self.server, self._open_wire, last_era=self._era, start_timeout=self._start_timeout
                ) as connection:
                    has_started = True
                    self._failures = 0
                    self._era = connection.era
                    self._publish(connection, None)
                    _log.info(
                        "mcp_server_ready",
                        mcp_server=self.server,
                        era=connection.era.value,
                        protocol_version=connection.session.protocol_version,
                        seconds=round(self._clock() - opened_at, 3),
                    )
                    await on_health(True)
                    error: BaseException = await connection.wait_over()
                    answers = connection.answers
            except Exception as err:  # the supervisor of the server: whatever ends it, it is started again
                error = leaf_of(err)
                if isinstance(error, InvalidInput) and not has_started:
                    raise error from err
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                # A cancellation that comes while the SDK's task groups fail of something else is lost in them.
                raise asyncio.CancelledError
            was_ready = self._connection is not None
            self._publish(None, error)
            if was_ready and (answers or self._clock() - opened_at >= self._steady_after):
                self._backoff.reset()
            if not was_ready:
                # Some servers end when their first request is not the handshake, so the next start leaves the probe
                # out; and when that failed, the server may have been replaced by one of the other era.
                self._era = Era.HANDSHAKE if self._era is None else None
                self._failures += 1
                if self._failures == DOWN_AFTER + 1:
                    await on_health(False)
                if not has_started and self._failures == self._first_attempts:
                    raise self._not_ready("every start has failed", "Run the command by itself to see what it lacks.")
            delay = self._backoff.next()
            _log.warning(
                "mcp_server_lost" if was_ready else "mcp_server_start_failed",
                mcp_server=self.server,
                error=_describe(error),
                failures=self._failures,
                retry_in=round(delay, 3),
            )
            await asyncio.sleep(delay)

    async def connection(self, wait: float = READY_WAIT) -> Connection:
        """Return the open connection, waiting up to `wait` seconds (10 at most) for a server that is being started.

        Raises Unavailable with reason MCP_SERVER_NOT_READY.
        """
        try:
            async with asyncio.timeout(min(wait, READY_WAIT)):
                while self._connection is None or self._connection.is_over:
                    if self._failures > DOWN_AFTER:
                        raise self._not_ready("every start has failed")
                    await self._changed.wait()
        except TimeoutError:
            raise self._not_ready("it is being started") from None
        return self._connection

    @property
    def current(self) -> Connection | None:
        """The open connection, if there is one."""
        return self._connection

    def _publish(self, connection: Connection | None, error: BaseException | None) -> None:
        self._connection = connection
        self._error = error
        self._changed.set()
        self._changed = asyncio.Event()

    def _not_ready(
        self, state: str, fix: str = "The bridge goes on starting it; see its log, or call again later."
    ) -> MeshError:
        why = f", {state}." if self._error is None else f", {state}. {_describe(self._error)}"
        return Unavailable(
            f"MCP server {self.server!r} is not ready{why}",
            reason=NOT_READY,
            fix=fix,
        )


def _describe(error: BaseException | None) -> str:
    if isinstance(error, MeshError):
        return error.summary
    return f"{type(error).__name__}: {error}."
