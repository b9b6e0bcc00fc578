"""How long to wait before the next attempt.

Full jitter, from https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/: a uniformly random part of
an exponentially growing bound spreads the attempts of many clients best.
"""

import random as _random
from collections.abc import Callable


class Backoff:
    """Delays that grow from `initial` to `maximum` seconds, each multiplied by `random()`, which is in [0, 1)."""

    def __init__(self, initial: float, maximum: float, *, random: Callable[[], float] = _random.random) -> None:
        if not 0 < initial <= maximum:
            raise ValueError("0 < initial <= maximum is needed")
        self._initial = initial
        self._maximum = maximum
        self._random = random
        self._bound = initial

    def next(self) -> float:
        """The seconds to wait now; the bound of the following wait is twice as large."""
        bound = self._bound
        self._bound = min(self._maximum, bound * 2)
        return bound * self._random()

    def reset(self) -> None:
        """Begin anew, after a success."""
        self._bound = self._initial
