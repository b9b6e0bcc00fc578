"""Bounds on guessing: after some failures one has to wait, longer each time."""

import time
from collections import OrderedDict
from collections.abc import Callable

from mesh.errors import ResourceExhausted

_FREE = 5
"""Failures without a wait."""
_LONGEST = 60.0
_FORGOTTEN_AFTER = 900.0
_MOST = 10_000


class Attempts:
    """Failures by what they were tried on, such as a user or an address. In memory: a restart forgets them."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def check(self, *subjects: str) -> None:
        """Raise ResourceExhausted while one of them has to wait."""
        now = self._clock()
        for subject in subjects:
            count, last = self._failures.get(subject, (0, 0.0))
            wait = last + _delay(count) - now
            if count >= _FREE and wait > 0:
                raise ResourceExhausted(
                    "There were too many failed attempts.",
                    reason="TOO_MANY_ATTEMPTS",
                    fix=f"Try again in {max(1, round(wait))} s.",
                )

    def failed(self, *subjects: str) -> None:
        """Count a failure."""
        now = self._clock()
        for subject in subjects:
            count, last = self._failures.pop(subject, (0, 0.0))
            self._failures[subject] = (1 if now - last > _FORGOTTEN_AFTER else count + 1, now)
            if len(self._failures) > _MOST:
                self._failures.popitem(last=False)

    def succeeded(self, *subjects: str) -> None:
        """Forget the failures."""
        for subject in subjects:
            self._failures.pop(subject, None)


def _delay(count: int) -> float:
    return min(_LONGEST, float(2 ** min(count - _FREE, 10)))
