"""Asks a storage, and leaves it alone for a while when it does not answer: then no call has to wait for it.

closed ──an error, or several late answers──> open ──after a pause, by one question──> closed
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from mesh.errors import Unavailable
from mesh.telemetry import get_logger

Answer = TypeVar("Answer")

DEADLINE = 0.05
"""Seconds for one question."""

_PAUSE = 0.5
_MOST_LATE = 3
"""So many late answers in a row open it: a single one may be due to a busy moment of this process."""

_log = get_logger(__name__)


class Circuit:
    """What stands between a storage and those who ask it. `purpose` is a word for the log. Belongs to one event loop.

    The log tells when it opens and when it closes again, and nothing of the questions between.
    """

    def __init__(self, purpose: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._purpose = purpose
        self._clock = clock
        self._open_until: float | None = None
        self._is_probing = False
        self._late = 0

    @property
    def is_open(self) -> bool:
        """Whether the storage is left alone at the moment."""
        return self._open_until is not None and (self._is_probing or self._clock() < self._open_until)

    async def ask(self, question: Callable[[], Awaitable[Answer]]) -> Answer:
        """The answer to a question that goes to the storage; raises Unavailable without one in 50 ms."""
        if self.is_open:
            raise self._away()
        is_probe = self._is_probing = self._open_until is not None
        try:
            async with asyncio.timeout(DEADLINE) as limit:
                answer = await question()
        except TimeoutError as err:
            if not limit.expired():
                raise
            self._late += 1
            if is_probe or self._late >= _MOST_LATE:
                self._open(f"no answer in {DEADLINE * 1000:g} ms")
            raise self._away() from err
        except Unavailable as err:
            self._open(str(err.__cause__ or err))
            raise
        finally:
            if is_probe:
                self._is_probing = False
        self._late = 0
        if is_probe:
            self._open_until = None
            _log.warning("storage_answers_again", purpose=self._purpose)
        return answer

    def _open(self, error: str) -> None:
        if self._open_until is None:
            _log.error("storage_away", purpose=self._purpose, error=error)
        self._open_until = self._clock() + _PAUSE

    def _away(self) -> Unavailable:
        return Unavailable(
            "The storage of the gateways does not answer.",
            reason="STORAGE_AWAY",
            field="MESH_CACHE_URL",
            fix="Look after the Valkey that the variable names.",
        )
