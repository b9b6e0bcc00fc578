"""One task beside a body, without the body's errors changing their type."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager


@asynccontextmanager
async def open_background(work: Coroutine[object, object, None]) -> AsyncIterator[asyncio.Task[None]]:
    """Run `work` while the body runs, and cancel it at the end.

    When `work` fails, the body is cancelled and the failure is raised. Unlike a bare TaskGroup, a single error leaves
    as itself and not inside an ExceptionGroup, so that callers can name it in `except`.
    """
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(work)
            try:
                yield task
            finally:
                task.cancel()
    except BaseExceptionGroup as several:
        if len(several.exceptions) != 1:
            raise
        (error,) = several.exceptions
        # Not `from None`, which would take away the cause that it already has.
        raise error from error.__cause__
