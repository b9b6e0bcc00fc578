"""The wish that a program, or a part of it, comes to its end."""

import asyncio


class Stop:
    """Set once, by a signal or by the owner; never taken back. Belongs to one event loop."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    @property
    def is_set(self) -> bool:
        """Whether the end is wished for."""
        return self._event.is_set()

    def set(self) -> None:
        """Wish for the end."""
        self._event.set()

    async def wait(self) -> None:
        """Return when the end is wished for."""
        await self._event.wait()
