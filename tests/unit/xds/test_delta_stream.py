"""A delta stream against a model of Envoy: whatever happens, in the end the client has what it should have."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mesh.model import SpiffeId
from mesh.xds import names
from mesh.xds.descriptors import envoy_message
from mesh.xds.resources import Resource
from mesh.xds.snapshot import Snapshot
from mesh.xds.stream import DeltaStream

IDENTITY = SpiffeId("mesh.test", "default", "caller")
CLUSTERS = st.dictionaries(st.sampled_from(["a", "b", "a-b", "c"]), st.integers(0, 3), max_size=4)
MOST_STEPS = 100


def request(url, *, subscribe=(), unsubscribe=(), nonce="", error="", initial=None):
    made = envoy_message("envoy.service.discovery.v3.DeltaDiscoveryRequest")(
        type_url=url,
        resource_names_subscribe=subscribe,
        resource_names_unsubscribe=unsubscribe,
        response_nonce=nonce,
        initial_resource_versions=initial or {},
    )
    if error:
        made.error_detail.message = error
    return made


def snapshot_of(clusters, listener, routes):
    def resources(url, versions):
        return {name: Resource(url, name, str(version), b"") for name, version in versions.items()}

    return Snapshot(
        {
            names.CLUSTER: resources(names.CLUSTER, clusters),
            names.ENDPOINT: resources(names.ENDPOINT, dict.fromkeys(clusters, 0)),
            names.LISTENER: resources(names.LISTENER, {"outbound": listener}),
            names.ROUTE: resources(names.ROUTE, {"outbound": routes}),
        },
        frozenset(clusters),
    )


class Envoy:
    """Asks as Envoy does, keeps what it gets, refuses what it is told to refuse."""

    def __init__(self):
        self.has = {url: {} for url in names.SHORT_NAMES}
        self.bad = set()
        self.asked = {names.ENDPOINT: set(), names.ROUTE: set()}

    def connect(self, stream):
        self.stream = stream
        for url in (names.CLUSTER, names.LISTENER):
            stream.receive(request(url, initial=self.has[url]))
        for url, asked in self.asked.items():
            if asked:
                kept = {name: version for name, version in self.has[url].items() if name in asked}
                stream.receive(request(url, subscribe=sorted(asked), initial=kept))

    def take(self, response, snapshot):
        url = response.type_url
        refused = [r.name for r in response.resources if (url, r.name, r.version) in self.bad]
        for resource in response.resources:
            if resource.name not in refused:
                self.has[url][resource.name] = resource.version
        if url == names.CLUSTER and response.removed_resources:
            wanted = {r.name: r.version for r in snapshot.of(names.ROUTE).values()}
            assert all(
                self.has[names.ROUTE].get(name) == version or (names.ROUTE, name, version) in self.bad
                for name, version in wanted.items()
            ), "clusters were removed before the routes that no longer lead to them arrived"
        if url == names.ROUTE:
            missing = snapshot.endpoint_clusters - self.has[names.CLUSTER].keys()
            assert all((names.CLUSTER, n, snapshot.of(names.CLUSTER)[n].version) in self.bad for n in missing), (
                "routes came before their clusters"
            )
        for name in response.removed_resources:
            assert url != names.ROUTE, "an Envoy that is told that its routes are gone never becomes live"
            self.has[url].pop(name, None)
        error = f"Error adding/updating cluster(s) {', '.join(refused)}: no" if refused else ""
        self.stream.receive(request(url, nonce=response.nonce, error=error))
        self._follow(names.CLUSTER, names.ENDPOINT)
        self._follow(names.LISTENER, names.ROUTE)

    def _follow(self, parents, children):
        wanted = set(self.has[parents])
        asked = self.asked[children]
        if wanted != asked:
            self.stream.receive(request(children, subscribe=sorted(wanted - asked), unsubscribe=sorted(asked - wanted)))
            for name in asked - wanted:
                self.has[children].pop(name, None)
            self.asked[children] = wanted


class DeltaMachine(RuleBasedStateMachine):
    @initialize(clusters=CLUSTERS)
    def begin(self, clusters):
        self.snapshot = snapshot_of(clusters, 0, 0)
        self.envoy = Envoy()
        self._connect()

    def _connect(self):
        stream = DeltaStream("caller/caller-1", IDENTITY, "envoy")
        stream.set_snapshot(self.snapshot, "v")
        self.envoy.connect(stream)

    @rule(clusters=CLUSTERS, listener=st.integers(0, 2), routes=st.integers(0, 2))
    def change(self, clusters, listener, routes):
        self.snapshot = snapshot_of(clusters, listener, routes)
        self.envoy.stream.set_snapshot(self.snapshot, "v")

    @rule(name=st.sampled_from(["a", "b", "a-b"]), version=st.integers(0, 3))
    def refuse(self, name, version):
        self.envoy.bad.add((names.CLUSTER, name, str(version)))

    @rule()
    def reconnect(self):
        self._connect()

    @rule(steps=st.integers(1, 4))
    def exchange_a_little(self, steps):
        for _ in range(steps):
            response = self.envoy.stream.next_response()
            if response is None:
                return
            self.envoy.take(response, self.snapshot)

    @rule()
    def exchange_all(self):
        for _ in range(MOST_STEPS):
            response = self.envoy.stream.next_response()
            if response is None:
                break
            self.envoy.take(response, self.snapshot)
        else:
            raise AssertionError("the stream never comes to rest")
        envoy, bad = self.envoy, self.envoy.bad
        for url in (names.CLUSTER, names.LISTENER, names.ROUTE):
            for name, resource in self.snapshot.of(url).items():
                if (url, name, resource.version) not in bad:
                    assert envoy.has[url].get(name) == resource.version, (url, name)
            if url != names.ROUTE:
                assert envoy.has[url].keys() <= self.snapshot.of(url).keys()
        assert envoy.has[names.ENDPOINT].keys() == envoy.has[names.CLUSTER].keys()

    @invariant()
    def one_response_of_a_type_at_a_time(self):
        if hasattr(self, "envoy"):
            status = self.envoy.stream.status()
            assert status.node_id == "caller/caller-1"


TestDeltaStream = DeltaMachine.TestCase
TestDeltaStream.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)


def connected(snapshot):
    envoy = Envoy()
    stream = DeltaStream("caller/caller-1", IDENTITY, "envoy")
    stream.set_snapshot(snapshot, "v")
    envoy.connect(stream)
    return envoy, stream


def settle(envoy, stream, snapshot):
    seen = []
    while (response := stream.next_response()) is not None:
        seen.append(
            (
                names.SHORT_NAMES[response.type_url],
                [r.name for r in response.resources],
                list(response.removed_resources),
            )
        )
        envoy.take(response, snapshot)
    return seen


def test_the_first_exchange_makes_before_it_uses():
    snapshot = snapshot_of({"a": 0}, 0, 0)
    envoy, stream = connected(snapshot)
    assert [kind for kind, _, _ in settle(envoy, stream, snapshot)] == ["cluster", "endpoint", "listener", "route"]


def test_a_reconnect_with_what_it_had_sends_nothing_again():
    snapshot = snapshot_of({"a": 0, "b": 1}, 0, 0)
    envoy, stream = connected(snapshot)
    settle(envoy, stream, snapshot)
    again = DeltaStream("caller/caller-1", IDENTITY, "envoy")
    again.set_snapshot(snapshot, "v")
    envoy.connect(again)
    assert [(names, removed) for _, names, removed in settle(envoy, again, snapshot) if names or removed] == []


def test_a_changed_cluster_gets_its_endpoints_again_although_nobody_asks():
    snapshot = snapshot_of({"a": 0}, 0, 0)
    envoy, stream = connected(snapshot)
    settle(envoy, stream, snapshot)
    changed = snapshot_of({"a": 1}, 0, 0)
    stream.set_snapshot(changed, "v2")
    assert settle(envoy, stream, changed) == [("cluster", ["a"], []), ("endpoint", ["a"], [])]


def test_what_was_refused_is_not_sent_again_until_it_changes():
    snapshot = snapshot_of({"a": 0, "b": 0}, 0, 0)
    envoy, stream = connected(snapshot)
    settle(envoy, stream, snapshot)
    envoy.bad.add((names.CLUSTER, "a", "1"))
    refused = snapshot_of({"a": 1, "b": 1}, 0, 0)
    stream.set_snapshot(refused, "v2")
    settle(envoy, stream, refused)
    assert envoy.has[names.CLUSTER] == {"a": "0", "b": "1"}
    assert stream.status().resources[2].held_back == ("a",) or any(
        kind.held_back == ("a",) for kind in stream.status().resources
    )
    stream.set_snapshot(refused, "v2")
    assert settle(envoy, stream, refused) == []
    mended = snapshot_of({"a": 2, "b": 1}, 0, 0)
    stream.set_snapshot(mended, "v3")
    settle(envoy, stream, mended)
    assert envoy.has[names.CLUSTER] == {"a": "2", "b": "1"}


def test_unknown_names_are_said_to_be_missing_but_unknown_routes_are_empty():
    snapshot = snapshot_of({}, 0, 0)
    _, stream = connected(snapshot)
    stream.receive(request(names.ENDPOINT, subscribe=["nobody"]))
    stream.receive(request(names.ROUTE, subscribe=["nowhere"]))
    seen = {}
    while (response := stream.next_response()) is not None:
        seen[response.type_url] = response
        stream.receive(request(response.type_url, nonce=response.nonce))
    assert list(seen[names.ENDPOINT].removed_resources) == ["nobody"]
    assert [resource.name for resource in seen[names.ROUTE].resources] == ["nowhere"]
    assert not seen[names.ROUTE].removed_resources


def test_a_stale_nonce_acknowledges_nothing():
    snapshot = snapshot_of({"a": 0}, 0, 0)
    _, stream = connected(snapshot)
    first = stream.next_response()
    stream.receive(request(names.CLUSTER, nonce="999"))
    assert stream.status().resources
    stream.set_snapshot(snapshot_of({"a": 1}, 0, 0), "v2")
    assert all(r.type_url != names.CLUSTER for r in iter(stream.next_response, None))
    stream.receive(request(names.CLUSTER, nonce=first.nonce))
    assert stream.next_response().type_url == names.CLUSTER
