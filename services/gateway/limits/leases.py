"""Parts of large limits that this gateway has taken in advance, so that most calls need not ask.

A lease is counted as a whole when it is taken, so never more pass than a limit allows; what is left of one when its
window ends is lost, which is a hundredth of the limit at most for each gateway.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

_SHARE = 100
_LARGEST = 100
_MOST = 10_000


@dataclass(slots=True)
class _Lease:
    calls: int
    left: int
    ends: float


class Leases:
    """Leases by key. Belongs to one event loop."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._leases: OrderedDict[str, _Lease] = OrderedDict()

    def take(self, key: str) -> tuple[int, int] | None:
        """Take one call out of a lease; None when there is none. Else what is left of the limit, and for how long.

        The second is the seconds until the window ends.
        """
        lease = self._leases.get(key)
        if lease is None:
            return None
        seconds = lease.ends - self._clock()
        if lease.calls <= 0 or seconds <= 0:
            del self._leases[key]
            return None
        lease.calls -= 1
        return lease.left + lease.calls, max(1, int(seconds))

    def put(self, key: str, calls: int, *, left: int, seconds: float) -> None:
        """Keep a lease of some calls for some seconds; `left` is what the limit has beyond it."""
        self._leases[key] = _Lease(calls, left, self._clock() + seconds)
        self._leases.move_to_end(key)
        if len(self._leases) > _MOST:
            self._leases.popitem(last=False)


def size_of_lease(limit: int) -> int:
    """How many calls are taken at once; 1 where a limit is so small that it is to be kept exactly."""
    return max(1, min(limit // _SHARE, _LARGEST))
