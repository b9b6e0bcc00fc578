"""How a command that stays comes to its end: by signals."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

from mesh.runtime import Stop
from services.meshctl.failures import INTERRUPTED

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


async def run_until_signal(
    work: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]], *, on_stop: Callable[[], None]
) -> None:
    """Run `work` until it returns, or SIGTERM, SIGINT or SIGHUP (a closed terminal) ends it.

    `work` gets a function to await once all has started; it returns at the first signal. A signal before that cancels
    `work`, and so does a second one: what has started then ends in less time. When only a thread is left, such as that
    of a download, the next signal ends the process. `on_stop` is called at the first signal.
    """
    task = asyncio.current_task()
    assert task is not None
    stop = Stop()
    has_started = False

    async def wait() -> None:
        nonlocal has_started
        has_started = True
        await stop.wait()

    def on_signal() -> None:
        is_first = not stop.is_set
        # Before anything is said: to say it may fail.
        stop.set()
        if task.done():
            os._exit(INTERRUPTED)
        if not (is_first and has_started):
            task.cancel()
        if is_first:
            on_stop()

    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        # nohup has SIGHUP ignored, and that stays.
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, on_signal)
    try:
        await work(wait)
    except asyncio.CancelledError:
        if not stop.is_set:
            raise
