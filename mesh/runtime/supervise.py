"""Keeps one child process running."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from mesh.runtime.backoff import Backoff
from mesh.runtime.child import Child, ChildSpec, open_child
from mesh.runtime.stop import Stop
from mesh.telemetry import get_logger

_STABLE_SECONDS = 10.0
"""A child that ran this long was well: the next restart does not wait for the sins of the earlier ones."""

_log = get_logger(__name__)


async def supervise(
    spec: ChildSpec,
    *,
    backoff: Backoff,
    on_start: Callable[[Child], Awaitable[None]] | None = None,
    before_start: Callable[[], None] | None = None,
    stop: Stop,
) -> None:
    """Run the child and start it again whenever it exits, until `stop` is set; then it is ended.

    `before_start` clears the way before each start. `on_start` is awaited after each, beside the running child; it is
    cancelled when the child exits first, and its errors end the supervision. Raises InvalidInput when the command does
    not exist; cancellation ends the child.
    """
    wished = asyncio.ensure_future(stop.wait())
    try:
        while not stop.is_set:
            if before_start is not None:
                before_start()
            started = time.monotonic()
            async with open_child(spec) as child:
                await _run_once(child, on_start, wished)
                if stop.is_set:
                    return
                code, said = child.returncode, child.last_output
            if time.monotonic() - started >= _STABLE_SECONDS:
                backoff.reset()
            delay = backoff.next()
            _log.warning("child_exited", child=spec.name, code=code, restart_in=round(delay, 3), said=said[-3:])
            await asyncio.wait((wished,), timeout=delay)
    finally:
        wished.cancel()


async def _run_once(
    child: Child, on_start: Callable[[Child], Awaitable[None]] | None, wished: asyncio.Future[None]
) -> None:
    """Return when the child has exited or the end is wished for."""
    ended = asyncio.ensure_future(child.wait())
    starting = asyncio.ensure_future(on_start(child)) if on_start else None
    try:
        if starting is not None:
            await asyncio.wait((starting, ended, wished), return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
        await asyncio.wait((ended, wished), return_when=asyncio.FIRST_COMPLETED)
    finally:
        ended.cancel()
        if starting is not None and not starting.done():
            # The child has gone, so that what on_start says now is of no interest.
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
