"""Wakes those who wait for something to happen, as often as it does."""

import asyncio


class News:
    """Who looks for news and then waits, without giving way to others in between, misses none."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def tell(self) -> None:
        """Wake all who wait now."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait for the next news, at most so many seconds; False when there were none."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        return True
