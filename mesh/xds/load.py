"""What becomes of requests, counted: one report after another, and sums over the newest of them.

Envoy reports per cluster: requests sent on (issued), ended well (ok) or badly (error), and those still under way. It
tells nothing of a request that its caller gave up, and that a version which hangs makes its callers do. Where the
sidecar times answers, those that never came can be told from streams that their callers ended: see `Ledger`.
"""

import itertools
import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Self

_NOTHING: Mapping[int, int] = MappingProxyType({})
_MOST_SPANS = 256
"""Of a series, before the older ones are merged."""
_FINENESS = 16
"""A merged span is as wide as a 16th of its age at most."""
_TOGETHER = 0.5
"""Seconds; reports of several proxies that come closer than this are kept as one."""


@dataclass(frozen=True, slots=True)
class Load:
    """Requests of some time. `unanswered` were given up by their callers before anything came back.

    `latencies` maps milliseconds to the first byte of the answer, in two significant digits, to numbers of requests.
    """

    ok: int = 0
    errors: int = 0
    unanswered: int = 0
    latencies: Mapping[int, int] = field(default_factory=lambda: _NOTHING)

    @property
    def requests(self) -> int:
        """All that have ended, but for streams that their callers ended."""
        return self.ok + self.failed

    @property
    def failed(self) -> int:
        """Errors and unanswered requests."""
        return self.errors + self.unanswered

    @property
    def error_percent(self) -> float | None:
        """Share of the failed requests, None when there were none at all."""
        return 100.0 * self.failed / self.requests if self.requests else None

    @property
    def timed(self) -> int:
        """Requests whose latency is known; an unanswered one took longer than any bound."""
        return sum(self.latencies.values()) + self.unanswered

    def slower_than(self, milliseconds: float) -> int:
        """How many requests took longer."""
        return self.unanswered + sum(count for took, count in self.latencies.items() if took > milliseconds)

    def quantile(self, share: float) -> float | None:
        """The latency in milliseconds that `share` of the requests did not exceed; infinite where no answer came."""
        rank, seen = math.ceil(share * self.timed), 0
        if not rank:
            return None
        for took in sorted(self.latencies):
            seen += self.latencies[took]
            if seen >= rank:
                return float(took)
        return math.inf


def add_loads(loads: Iterable[Load]) -> Load:
    """The sum of loads."""
    ok = errors = unanswered = 0
    latencies: Counter[int] = Counter()
    for load in loads:
        ok += load.ok
        errors += load.errors
        unanswered += load.unanswered
        latencies.update(load.latencies)
    return Load(ok, errors, unanswered, MappingProxyType(dict(latencies)))


def round_latency(milliseconds: int) -> int:
    """Two significant digits, so that a sum of many has few different ones: an error of at most 5 percent."""
    if milliseconds < 100:
        return milliseconds
    unit: int = 10 ** (len(str(milliseconds)) - 2)
    return (milliseconds + unit // 2) // unit * unit


@dataclass(frozen=True, slots=True)
class Report:
    """One report of one proxy about one cluster. `answered` is None where answers are not timed."""

    issued: int
    ok: int
    errors: int
    in_progress: int
    answered: Mapping[int, int] | None = None

    @classmethod
    def at_rest(cls, is_timed: bool) -> Self:
        """The report about a cluster of which there is nothing to tell."""
        return cls(0, 0, 0, 0, _NOTHING if is_timed else None)


class Ledger:
    """Tells unanswered requests from ended streams, over the reports of one proxy about one cluster.

    A request that ended neither well nor badly was given up by its caller. If one was under way whose answer had begun,
    it was a stream; otherwise no answer came.
    """

    def __init__(self) -> None:
        self._in_progress: int | None = None
        self._streaming = 0

    def enter(self, report: Report) -> Load:
        """What the report adds."""
        given_up = 0
        if self._in_progress is not None:
            # Failed connections are errors that were never issued: they make the balance negative.
            growth = report.in_progress - self._in_progress
            given_up = max(0, report.issued - report.ok - report.errors - growth)
        self._in_progress = report.in_progress
        if report.answered is None:
            return Load(report.ok, report.errors)
        begun = self._streaming + sum(report.answered.values())
        could_stream = max(0, begun - report.ok - report.errors)
        unanswered = max(0, given_up - could_stream)
        self._streaming = min(max(0, could_stream - given_up), report.in_progress)
        latencies: Counter[int] = Counter()
        for took, count in report.answered.items():
            latencies[round_latency(took)] += count
        return Load(report.ok, report.errors, unanswered, MappingProxyType(dict(latencies)))


@dataclass(slots=True)
class _Span:
    start: float
    first_end: float
    end: float
    load: Load

    def merge(self, later: Self) -> None:
        self.start = min(self.start, later.start)
        self.end = later.end
        self.load = add_loads((self.load, later.load))


class Series:
    """Loads over time: the newest one by one, older ones merged, what is older than `horizon` seconds forgotten.

    However long it lives, it holds a bounded number of spans.
    """

    def __init__(self, *, horizon: float = 3600.0) -> None:
        self._horizon = horizon
        self._spans: deque[_Span] = deque()

    def add(self, start: float, end: float, load: Load) -> None:
        """Add what happened from `start` to `end` seconds; reports of many proxies come in the order of `end`."""
        if self._spans and end - self._spans[-1].first_end < _TOGETHER:
            self._spans[-1].merge(_Span(start, end, end, load))
        else:
            self._spans.append(_Span(start, end, end, load))
        while self._spans[0].end < end - self._horizon:
            self._spans.popleft()
        if len(self._spans) > _MOST_SPANS:
            self._merge_older(end)

    def _merge_older(self, now: float) -> None:
        """Merge neighbours that are narrow for their age, so that a moment long ago is met within some percent."""
        merged = [self._spans[0]]
        for span in itertools.islice(self._spans, 1, None):
            if span.end - merged[-1].start <= (now - span.end) / _FINENESS:
                merged[-1].merge(span)
            else:
                merged.append(span)
        self._spans = deque(merged)

    def since(self, moment: float) -> Load:
        """The sum of what began at `moment` or later."""
        return add_loads(span.load for span in self._spans if span.start >= moment)
