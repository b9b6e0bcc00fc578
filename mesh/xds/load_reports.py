"""What the proxies report about requests, for whoever judges a canary or a change.

    judge, error_percent ──> orders ──> LoadReportServer ──LRS──> Envoy
    load_of, load_at <── series <── ledger per proxy and cluster <── reports, one a second

While nobody judges, nothing is asked for and nothing is kept. Reports stay in this process.
"""

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from mesh.xds.load import Ledger, Load, Report, Series, add_loads
from mesh.xds.resources.timing import is_timed

_INTERVAL = 1.0
_PROXIES_PER_SECOND = 200
"""Reports that a control plane takes in a second; where there are more proxies, each reports less often."""

_IDLE_INTERVAL = 300.0
"""Between reports that nobody needs: Envoy keeps the sums of timed clusters until it reports, and they grow."""
_NOTHING_INTERVAL = 3600.0
_LEASE = 10.0


@dataclass(frozen=True, slots=True)
class Order:
    """What one proxy is to report, and how often (seconds). With `is_all` it reports every cluster that it has."""

    clusters: tuple[str, ...] = ()
    interval: float = _NOTHING_INTERVAL
    is_all: bool = False


NOTHING = Order()


@dataclass(slots=True, eq=False)
class Source:
    """One stream of reports: whose it is, what it is to report, and a ledger for each cluster that counts.

    `carried` are clusters that were to be reported before the newest order, and since when they are counted.
    """

    node_id: str
    wake: Callable[[], None]
    ordered_at: float
    last_time: float = -math.inf
    order: Order = NOTHING
    carried: dict[str, float] = field(default_factory=dict)
    ledgers: dict[str, Ledger] = field(default_factory=dict)

    def start_of(self, name: str) -> float:
        """Since when the next report counts a cluster."""
        return self.carried.get(name, max(self.ordered_at, self.last_time))


class LoadReports:
    """Sums of reports, by cluster over all proxies and by proxy over all clusters. Belongs to one event loop.

    `timed_clusters` gives those whose answers are timed although nobody may judge them.
    """

    def __init__(
        self,
        *,
        timed_clusters: Callable[[], tuple[str, ...]] = tuple,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._timed_clusters = timed_clusters
        self._clock = clock
        self._judged: list[tuple[frozenset[str], frozenset[str]]] = []
        self._by_cluster: dict[str, Series] = {}
        self._by_node: dict[str, Series] = {}
        self._leased: frozenset[str] = frozenset()
        self._lease_end = 0.0
        self._sources: set[Source] = set()

    @contextmanager
    def judge(self, *, clusters: Collection[str] = (), nodes: Collection[str] = ()) -> Iterator[None]:
        """Have `clusters` reported by all proxies, and all clusters by the proxies `nodes`, while the block runs."""
        wanted = (frozenset(clusters), frozenset(nodes))
        self._judged.append(wanted)
        self.wake()
        try:
            yield
        finally:
            self._judged.remove(wanted)
            known = self._clusters(), self._nodes()
            self._by_cluster = {name: found for name, found in self._by_cluster.items() if name in known[0]}
            self._by_node = {name: found for name, found in self._by_node.items() if name in known[1]}
            self.wake()

    def now(self) -> float:
        """The moment for `since`, in seconds."""
        return self._clock()

    def load_of(self, cluster: str, since: float) -> Load:
        """The load of a judged cluster, of all proxies together."""
        found = self._by_cluster.get(cluster)
        return found.since(since) if found is not None else Load()

    def load_at(self, nodes: Collection[str], since: float) -> Load:
        """The load that judged proxies see, of all their clusters together."""
        return add_loads(self._by_node[node].since(since) for node in nodes if node in self._by_node)

    def error_percent_of(self, cluster: str, since: float) -> float | None:
        """Share of failed requests to a judged cluster, None when there were none at all."""
        return self.load_of(cluster, since).error_percent

    def error_percent(self, node_ids: Collection[str], since: float) -> float | None:
        """Share of failed requests that these proxies see, None when there were none at all.

        Asking has these proxies judged for `_LEASE` seconds: who asks again and again need not say that it does.
        """
        asked, is_new = frozenset(node_ids), not self._nodes().issuperset(node_ids)
        self._leased, self._lease_end = asked, self._clock() + _LEASE
        if is_new:
            self.wake()
        return self.load_at(node_ids, since).error_percent

    def order_for(self, node_id: str) -> Order:
        """What a proxy is to report now."""
        interval = max(_INTERVAL, len(self._sources) / _PROXIES_PER_SECOND)
        if node_id in self._nodes():
            return Order((), interval, is_all=True)
        if clusters := self._clusters():
            return Order(tuple(sorted(clusters)), interval)
        if timed := self._timed_clusters():
            return Order(tuple(sorted(timed)), _IDLE_INTERVAL)
        return NOTHING

    def connect(self, node_id: str, wake: Callable[[], None]) -> Source:
        """A proxy has opened a stream; `wake` is called whenever its order may have changed."""
        source = Source(node_id, wake, self._clock())
        self._sources.add(source)
        return source

    def note_ordered(self, source: Source, order: Order) -> None:
        """A new order goes out. Envoy counts from here on, but for what it was to report before: that goes on."""
        before, source.order = source.order, order
        if before.is_all and order.is_all:
            return
        known = order.clusters if before.is_all else before.clusters
        going_on = known if order.is_all else set(known).intersection(order.clusters)
        source.carried = {name: source.start_of(name) for name in going_on}
        source.ordered_at = self._clock()

    def disconnect(self, source: Source) -> None:
        """The stream has ended. What it reported stays."""
        self._sources.discard(source)

    def take(self, source: Source, reports: Mapping[str, Report]) -> None:
        """Add what a connected proxy reports; what is not judged is thrown away."""
        end = self._clock()
        clusters, is_judged_node = self._clusters(), source.node_id in self._nodes()
        # What is at rest is not in a report; that it has come to rest must be entered, too.
        for name in {*reports, *source.ledgers}:
            if name not in clusters and not is_judged_node:
                source.ledgers.pop(name, None)
                continue
            start = source.start_of(name)
            load = source.ledgers.setdefault(name, Ledger()).enter(reports.get(name) or Report.at_rest(is_timed(name)))
            if name in clusters:
                self._by_cluster.setdefault(name, Series()).add(start, end, load)
            if is_judged_node:
                self._by_node.setdefault(source.node_id, Series()).add(start, end, load)
            if name not in clusters and name not in reports:
                # A proxy that makes up names must not have them kept.
                del source.ledgers[name]
        if not is_judged_node:
            self._by_node.pop(source.node_id, None)
        source.carried, source.last_time = {}, end
        # Its order may have run out.
        source.wake()

    def wake(self) -> None:
        """Let every stream look at its order again."""
        for source in tuple(self._sources):
            source.wake()

    def _clusters(self) -> frozenset[str]:
        return frozenset().union(*(clusters for clusters, _ in self._judged))

    def _nodes(self) -> frozenset[str]:
        leased = self._leased if self._clock() < self._lease_end else frozenset()
        return leased.union(*(nodes for _, nodes in self._judged))
