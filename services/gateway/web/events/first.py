"""Works beside one another, of which the first to end ends all."""

import asyncio
from collections.abc import Coroutine
from typing import Any


async def run_until_first(*works: Coroutine[Any, Any, None]) -> None:
    """Run all until one has ended, and cancel the others; raises what one of them has raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
            raise result
