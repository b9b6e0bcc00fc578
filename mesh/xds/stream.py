"""One ADS stream, without I/O: requests in, responses out.

`receive` takes a request, `next_response` gives what is to be sent next, until it gives None. The order of types is
make before break: clusters and endpoints are added before the listeners and routes that use them, and removed after.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

from mesh.model import SpiffeId
from mesh.telemetry import get_logger
from mesh.xds import names
from mesh.xds.answers import Answer
from mesh.xds.limits import LONGEST_COMPLAINT, check_count, check_lengths, check_types
from mesh.xds.resources.routes import build_empty_routes
from mesh.xds.responses import DeltaResponse, Response, StateResponse
from mesh.xds.snapshot import EMPTY, Snapshot
from mesh.xds.status import ProxyStatus, TypeRecord, TypeStatus, utc_now
from mesh.xds.subscription import DeltaSubscription, Plan, StateSubscription

_log = get_logger(__name__)

_NOTHING = Plan()


class _Subscription(Protocol):
    """What both kinds of subscription share; see mesh.xds.subscription."""

    held: dict[str, str]

    @property
    def is_waiting(self) -> bool: ...

    def acknowledge(self, nonce: str) -> bool: ...

    def refuse(self, nonce: str, message: str) -> tuple[str, ...] | None: ...


_S = TypeVar("_S", bound=_Subscription)


class AdsStream(ABC, Generic[_S]):
    """What both protocols share: who is there, what it should have, and how it went."""

    protocol = ""

    def __init__(self, node_id: str, spiffe_id: SpiffeId, user_agent: str) -> None:
        self.node_id = node_id
        self.spiffe_id = spiffe_id
        self.user_agent = user_agent
        self.connect_time: datetime = utc_now()
        self._snapshot: Snapshot = EMPTY
        self._version = ""
        self._subscriptions: dict[str, _S] = {}
        self._records: dict[str, TypeRecord] = {}
        self._nonces = itertools.count(1)
        self.on_answer: Callable[[Answer], None] = lambda answer: None

    def set_snapshot(self, snapshot: Snapshot, version: str) -> None:
        """What the client should have from now on; `version` names the state that it was built from."""
        changes = snapshot.changes_since(self._snapshot)
        self._snapshot = snapshot
        self._version = version
        self._note_changed(changes)

    @property
    def is_waiting(self) -> bool:
        """True while the client has not acknowledged something."""
        return any(subscription.is_waiting for subscription in self._subscriptions.values())

    @abstractmethod
    def receive(self, request: Any) -> None:
        """Take a request."""

    @abstractmethod
    def next_response(self) -> Response | None:
        """The next response to send, which counts as sent; None when there is none now."""

    def _subscription(self, type_url: str, make: Callable[[], _S]) -> _S:
        """What the client has asked for of a type; made when this is its first request for it."""
        known = self._subscriptions.get(type_url)
        if known is None:
            check_types({*self._subscriptions, type_url})
            known = self._subscriptions[type_url] = make()
        return known

    def _take_answer(self, request: Any, subscription: _S) -> None:
        """Take what a request says of the response with its nonce."""
        url, nonce = request.type_url, request.response_nonce
        record = self._record(url)
        if not nonce:
            return
        if request.HasField("error_detail"):
            message = request.error_detail.message
            refused = subscription.refuse(nonce, message)
            if refused is not None:
                self._note_nack(url, refused, subscription.held, message)
        elif subscription.acknowledge(nonce):
            record.note_ack()
            self.on_answer(Answer(self.node_id, self.spiffe_id, url))

    def _note_changed(self, changes: Mapping[str, frozenset[str]]) -> None:
        """The snapshot is another one; `changes` are names by type URL."""

    def has_taken(self, changed: Mapping[str, Mapping[str, str | None]]) -> bool:
        """True when the client has acknowledged these versions, by type URL and name; None: it has the name no more.

        What it has not asked for does not count.
        """
        return all(self._has_taken(url, versions) for url, versions in changed.items())

    @abstractmethod
    def _has_taken(self, type_url: str, versions: Mapping[str, str | None]) -> bool: ...

    def refusals(self) -> tuple[Answer, ...]:
        """What the client has refused on this stream and would not be sent again, one per type."""
        return tuple(
            Answer(self.node_id, self.spiffe_id, url, True, dict(held), record.nack_message[:LONGEST_COMPLAINT])
            for url, record in self._records.items()
            if (held := self._subscriptions[url].held)
        )

    def status(self) -> ProxyStatus:
        """How the client is."""
        return ProxyStatus(
            node_id=self.node_id,
            spiffe_id=self.spiffe_id,
            service=self.spiffe_id.service,
            protocol=self.protocol,
            connect_time=self.connect_time,
            user_agent=self.user_agent,
            resources=tuple(
                self._type_status(url, short) for url, short in names.SHORT_NAMES.items() if url in self._records
            ),
        )

    def _type_status(self, type_url: str, short: str) -> TypeStatus:
        record = self._records[type_url]
        return TypeStatus(
            type=short,
            subscribed=self._count(type_url),
            sent_version=record.sent_version,
            acked_version=record.acked_version,
            ack_time=record.ack_time,
            nack_message=record.nack_message,
            nack_time=record.nack_time,
            held_back=self._held_back(type_url, self._subscriptions[type_url].held),
            sent_time=record.sent_time,
            is_waiting=record.is_waiting,
        )

    @abstractmethod
    def _count(self, type_url: str) -> int:
        """How many resources of a type the client has, or was sent."""

    def _held_back(self, type_url: str, held: Mapping[str, str]) -> tuple[str, ...]:
        """The names whose newest version the client has refused."""
        if not held:
            return ()
        wanted = self._snapshot.of(type_url)
        return tuple(
            sorted(name for name, version in held.items() if name in wanted and wanted[name].version == version)
        )

    def _record(self, type_url: str) -> TypeRecord:
        known = self._records.get(type_url)
        if known is None:
            known = self._records[type_url] = TypeRecord()
        return known

    def _note_nack(self, type_url: str, held: tuple[str, ...], versions: Mapping[str, str], message: str) -> None:
        said = message[:LONGEST_COMPLAINT]
        self._record(type_url).note_nack(said)
        refused = {name: versions[name] for name in held if name in versions}
        self.on_answer(Answer(self.node_id, self.spiffe_id, type_url, True, refused, said))
        _log.error(
            "config_rejected",
            node=self.node_id,
            type=names.SHORT_NAMES.get(type_url, type_url[:200]),
            resources=",".join(held),
            said=said,
        )


class DeltaStream(AdsStream[DeltaSubscription]):
    """DeltaAggregatedResources, as Envoy speaks it."""

    protocol = "delta"

    def __init__(self, node_id: str, spiffe_id: SpiffeId, user_agent: str) -> None:
        super().__init__(node_id, spiffe_id, user_agent)
        # Clusters that were sent and whose endpoints were not sent since.
        self._warming: set[str] = set()
        # The client comes with clusters of an earlier stream: it will ask for listeners and routes, too.
        self._is_returning = False

    def receive(self, request: Any) -> None:
        url = request.type_url
        initial = request.initial_resource_versions
        check_lengths((url,), request.resource_names_subscribe, initial.keys(), initial.values())
        subscription = self._subscription(url, DeltaSubscription)
        self._take_answer(request, subscription)
        subscription.subscribe(
            request.resource_names_subscribe,
            request.resource_names_unsubscribe,
            request.initial_resource_versions,
            may_be_wildcard=url in names.WILDCARD_TYPES,
        )
        check_count(url, max(len(subscription.names), len(subscription.sent)))
        if url == names.ENDPOINT:
            self._force_endpoints()
        elif url == names.CLUSTER and request.initial_resource_versions:
            self._is_returning = True

    def _note_changed(self, changes: Mapping[str, frozenset[str]]) -> None:
        for url, changed in changes.items():
            if url in self._subscriptions:
                self._subscriptions[url].note_changed(changed)

    def next_response(self) -> Response | None:
        if not any(subscription.may_be_due for subscription in self._subscriptions.values()):
            return None
        # Added and changed things first, in order; the users of clusters wait until these are there.
        for url in (names.CLUSTER, names.ENDPOINT):
            if plan := self._plan(url, with_removals=False):
                return self._respond(url, plan)
        for url in (names.LISTENER, names.ROUTE, names.EXTENSION):
            if (plan := self._plan(url, with_removals=True)) and self._clusters_are_settled():
                return self._respond(url, plan)
        # What a client asks for and does not exist must be said at once: Envoy waits for it.
        for url in (names.CLUSTER, names.ENDPOINT):
            plan = self._plan(url, with_removals=True)
            if plan.removed and not self._users_are_settled():
                unknown = self._never_sent(url, plan.removed)
                plan = Plan(plan.resources, unknown)
            if plan:
                return self._respond(url, plan)
        for url in self._subscriptions:
            if url not in names.SHORT_NAMES and (plan := self._plan(url, with_removals=True)):
                return self._respond(url, plan)
        return None

    def _plan(self, url: str, *, with_removals: bool) -> Plan:
        subscription = self._subscriptions.get(url)
        if subscription is None or not subscription.may_be_due:
            return _NOTHING
        plan = subscription.plan(self._snapshot.of(url), with_removals=with_removals)
        if url == names.ROUTE and plan.removed:
            # Told that its routes do not exist, Envoy never becomes live: it gets empty ones instead.
            empty = tuple(build_empty_routes(name) for name in plan.removed)
            kept = tuple(r for r in empty if subscription.sent.get(r.name) != r.version)
            return Plan((*plan.resources, *kept))
        return plan

    def _never_sent(self, url: str, removed: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in removed if name not in self._subscriptions[url].sent)

    def _users_are_settled(self) -> bool:
        """True when no listener or route that the client has can still lead to what is gone."""
        listeners, routes = self._subscriptions.get(names.LISTENER), self._subscriptions.get(names.ROUTE)
        if self._is_returning and (listeners is None or (routes is None and not listeners.held)):
            return False
        return self._is_quiet(listeners, names.LISTENER) and self._is_quiet(routes, names.ROUTE)

    def _is_quiet(self, subscription: DeltaSubscription | None, url: str) -> bool:
        """True when nothing of the type waits or is to be sent."""
        if subscription is None:
            return True
        return not subscription.is_waiting and not self._plan(url, with_removals=True)

    def _clusters_are_settled(self) -> bool:
        """True when the client has all clusters and endpoints of the snapshot, or has refused them."""
        clusters, endpoints = self._subscriptions.get(names.CLUSTER), self._subscriptions.get(names.ENDPOINT)
        if clusters is None:
            return True
        if clusters.is_waiting or self._plan(names.CLUSTER, with_removals=False):
            return False
        needed = self._snapshot.endpoint_clusters & set(clusters.sent) - set(clusters.held)
        if endpoints is None:
            return not needed
        if endpoints.is_waiting or self._plan(names.ENDPOINT, with_removals=False):
            return False
        return all(endpoints.wants(name) for name in needed)

    def _respond(self, url: str, plan: Plan) -> Response:
        nonce = str(next(self._nonces))
        self._subscriptions[url].note_sent(plan, nonce)
        self._record(url).note_sent(self._version)
        if url == names.CLUSTER:
            self._warming |= {resource.name for resource in plan.resources} & self._snapshot.endpoint_clusters
            self._warming -= set(plan.removed)
            self._force_endpoints()
        elif url == names.ENDPOINT:
            self._warming -= {resource.name for resource in plan.resources}
        return DeltaResponse(url, nonce, self._version, plan.resources, plan.removed)

    def _has_taken(self, type_url: str, versions: Mapping[str, str | None]) -> bool:
        subscription = self._subscriptions.get(type_url)
        if subscription is None:
            return True
        wanted = {name: version for name, version in versions.items() if subscription.wants(name)}
        if type_url == names.ROUTE:
            # Routes that are gone are sent as empty ones.
            wanted = {name: version for name, version in wanted.items() if version is not None}
        return not subscription.is_waiting and all(
            subscription.sent.get(name) == version for name, version in wanted.items()
        )

    def _force_endpoints(self) -> None:
        """A changed cluster warms until it gets its endpoints again, although Envoy does not ask for them.

        After a reconnect a cluster may go out before the client has said which endpoints it has; that it has them does
        not end the warming.
        """
        endpoints = self._subscriptions.get(names.ENDPOINT)
        if endpoints is not None and self._warming:
            endpoints.force(self._warming & endpoints.names)

    def _count(self, type_url: str) -> int:
        return len(self._subscriptions[type_url].sent)


class StateStream(AdsStream[StateSubscription]):
    """StreamAggregatedResources, as gRPC's own client speaks it."""

    protocol = "state-of-the-world"

    def receive(self, request: Any) -> None:
        url = request.type_url
        check_lengths((url,), request.resource_names)
        check_count(url, len(request.resource_names))
        subscription = self._subscription(url, StateSubscription)
        self._take_answer(request, subscription)
        subscription.request(request.resource_names, may_be_wildcard=url in names.WILDCARD_TYPES)

    def next_response(self) -> Response | None:
        for url in names.PUSH_ORDER:
            subscription = self._subscriptions.get(url)
            if subscription is None or subscription.is_waiting:
                continue
            found = subscription.plan(self._snapshot.of(url))
            if found is None:
                continue
            nonce = str(next(self._nonces))
            subscription.note_sent(found, nonce)
            self._record(url).note_sent(self._version)
            return StateResponse(url, nonce, self._version, found)
        return None

    def _has_taken(self, type_url: str, versions: Mapping[str, str | None]) -> bool:
        subscription = self._subscriptions.get(type_url)
        if subscription is None:
            return True
        sent = subscription.sent or {}
        return not subscription.is_waiting and all(
            sent.get(name) == version
            for name, version in versions.items()
            if subscription.is_wildcard or name in subscription.names
        )

    def _count(self, type_url: str) -> int:
        return len(self._subscriptions[type_url].sent or ())
