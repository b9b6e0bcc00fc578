"""Learns that a child has exited at the moment when it does.

Until Python 3.12, `Process.wait()` of asyncio returns only after all pipes of the child are closed too. A process that
the child left behind may hold them for ever, so that a dead server would look alive. `returncode` does not wait.
"""

import asyncio
import os

from mesh.runtime import Child

_POLL_SECONDS = 0.25
_REAPING_SECONDS = 0.005


async def wait_exit(child: Child) -> None:
    """Wait until `child.returncode` is known. Cancelling it leaves the child alone."""
    interval = _POLL_SECONDS
    if child.returncode is None and await _wait_pidfd(child.pid):
        interval = _REAPING_SECONDS  # the exit has happened; asyncio is about to learn of it
    while child.returncode is None:  # noqa: ASYNC110  nothing else tells it, see above
        await asyncio.sleep(interval)


async def _wait_pidfd(pid: int) -> bool:
    """Wait for the exit without polling; false where the system cannot do that."""
    if not hasattr(os, "pidfd_open"):
        return False
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    loop = asyncio.get_running_loop()
    exited = asyncio.Event()
    try:
        loop.add_reader(descriptor, exited.set)
        await exited.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    return True
