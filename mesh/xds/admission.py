"""Shapes storms: when a thousand proxies connect at once, some get their configuration and the others wait a little."""

import asyncio
from collections.abc import Callable

INITIAL_PUSHES = 32
"""Proxies that get their first configuration at the same time."""

LONGEST_PUSH = 2.0
"""Seconds after which a proxy that is slow to take its configuration gives its place to another."""


class Admission:
    """Places for streams that get their first configuration, given in the order of asking."""

    def __init__(self, places: int = INITIAL_PUSHES, longest: float = LONGEST_PUSH) -> None:
        self._places = asyncio.Semaphore(places)
        self._longest = longest

    async def enter(self) -> Callable[[], None]:
        """Wait for a place; what is returned gives it back, however often it is called, and is called in the end."""
        await self._places.acquire()
        is_held = True

        def leave() -> None:
            nonlocal is_held
            if is_held:
                is_held = False
                timer.cancel()
                self._places.release()

        timer = asyncio.get_running_loop().call_later(self._longest, leave)
        return leave
