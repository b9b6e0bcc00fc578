"""Ends a stream when the gateway stops: who reads it takes it up again at another one."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

_T = TypeVar("_T")


async def until(ending: asyncio.Event, items: AsyncGenerator[_T, None]) -> AsyncGenerator[_T, None]:
    """The items up to the moment at which `ending` is set; closes them at the end."""
    over = asyncio.ensure_future(ending.wait())
    upcoming: asyncio.Future[_T] | None = None
    try:
        async with aclosing(items):
            while True:
                upcoming = asyncio.ensure_future(anext(items))
                await asyncio.wait((over, upcoming), return_when=asyncio.FIRST_COMPLETED)
                if not upcoming.done():
                    upcoming.cancel()
                    await asyncio.wait((upcoming,))
                    return
                try:
                    item = upcoming.result()
                except StopAsyncIteration:
                    return
                yield item
    finally:
        over.cancel()
        if upcoming is not None:
            upcoming.cancel()
