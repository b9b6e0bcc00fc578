"""A delta stream against a model of Envoy: whatever happens, in the end the client has what it should have."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

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
            names.ROUTE: resources(names.ROUTE, {"outbound": f"{routes} to {sorted(clusters)}"}),
        },
        frozenset(clusters),
    )


class Envoy:
    """Asks as Envoy does, keeps what it gets, refuses what it is told to refuse."""

    def __init__(self):
        self.has = {url: {} for url in names.SHORT_NAMES}
        self.bad = set()
        self.unreadable = set()
        self.asked = {names.ENDPOINT: set(), names.ROUTE: set()}
        self.warming = set()
        self.led_to = frozenset()
        self.unsent = []

    def connect(self, stream):
        """Say what it has, one request after the other; `say` sends the next one."""
        self.stream = stream
        # A stream that breaks between a cluster and its endpoints: Envoy takes the endpoints that it has in the end,
        # when its initial_fetch_timeout is over.
        self.warming.clear()
        self.unsent = [request(url, initial=self.has[url]) for url in (names.CLUSTER, names.LISTENER)]
        for url, asked in self.asked.items():
            if asked:
                kept = {name: version for name, version in self.has[url].items() if name in asked}
                self.unsent.append(request(url, subscribe=sorted(asked), initial=kept))
        self.say()

    def say(self):
        if self.unsent:
            self.stream.receive(self.unsent.pop(0))

    def say_all(self):
        while self.unsent:
            self.say()

    def take(self, response, snapshot):
        response = envoy_message("envoy.service.discovery.v3.DeltaDiscoveryResponse").FromString(response.to_bytes())
        url = response.type_url
        for resource in response.resources:
            known = self.has[url].get(resource.name)
            bare = url not in (names.ENDPOINT, names.ROUTE)
            assert known != resource.version or not bare, f"{resource.name} was sent again without a change"
        refused = [r.name for r in response.resources if (url, r.name, r.version) in self.bad]
        if unreadable := [r.name for r in response.resources if (url, r.name, r.version) in self.unreadable]:
            # What it cannot decode makes Envoy refuse the whole response, with the words of the first such resource.
            said = f'name: "{unreadable[0]}": Proto constraint validation failed'
            self.stream.receive(request(url, nonce=response.nonce, error=said))
            return
        for resource in response.resources:
            if resource.name not in refused:
                self.has[url][resource.name] = resource.version
                if url == names.CLUSTER:
                    self.warming.add(resource.name)
                elif url == names.ROUTE:
                    self.led_to = snapshot.endpoint_clusters
                elif url == names.ENDPOINT:
                    self.warming.discard(resource.name)
        if url == names.CLUSTER and response.removed_resources:
            assert not self.led_to & set(response.removed_resources), "clusters went before the routes to them"
        if url == names.ROUTE:
            missing = snapshot.endpoint_clusters - self.has[names.CLUSTER].keys()
            bad = self.bad | self.unreadable
            assert all((names.CLUSTER, n, snapshot.of(names.CLUSTER)[n].version) in bad for n in missing), (
                "routes came before their clusters"
            )
        for name in response.removed_resources:
            assert url != names.ROUTE, "an Envoy that is told that its routes are gone never becomes live"
            self.has[url].pop(name, None)
            self.warming.discard(name)
        error = f"Error adding/updating cluster(s) {', '.join(refused)}: no" if refused else ""
        self.stream.receive(request(url, nonce=response.nonce, error=error))
        self._follow(names.CLUSTER, names.ENDPOINT)
        self._follow(names.LISTENER, names.ROUTE)

    def _follow(self, parents, children):
        wanted = set(self.has[parents])
        asked = self.asked[children]
        if wanted != asked:
            # What a change asks for comes after what was to be said first.
            self.say_all()
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

    @rule(name=st.sampled_from(["a", "b"]), version=st.integers(0, 3))
    def find_unreadable(self, name, version):
        self.envoy.unreadable.add((names.CLUSTER, name, str(version)))

    @rule()
    def reconnect(self):
        self._connect()

    @rule()
    def say_a_little(self):
        self.envoy.say()

    @rule(steps=st.integers(1, 4))
    def exchange_a_little(self, steps):
        for _ in range(steps):
            response = self.envoy.stream.next_response()
            if response is None:
                return
            self.envoy.take(response, self.snapshot)

    @rule()
    def exchange_all(self):
        self.envoy.say_all()
        for _ in range(MOST_STEPS):
            response = self.envoy.stream.next_response()
            if response is None:
                break
            self.envoy.take(response, self.snapshot)
        else:
            raise AssertionError("the stream never comes to rest")
        envoy, bad = self.envoy, self.envoy.bad | self.envoy.unreadable
        for url in (names.CLUSTER, names.LISTENER, names.ROUTE):
            for name, resource in self.snapshot.of(url).items():
                if (url, name, resource.version) not in bad:
                    assert envoy.has[url].get(name) == resource.version, (url, name)
            if url != names.ROUTE:
                assert envoy.has[url].keys() <= self.snapshot.of(url).keys()
        assert envoy.has[names.ENDPOINT].keys() == envoy.has[names.CLUSTER].keys()
        assert not envoy.warming, "a cluster waits for endpoints that never come"


TestDeltaStream = DeltaMachine.TestCase
TestDeltaStream.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)


def connected(snapshot):
    envoy = Envoy()
    stream = DeltaStream("caller/caller-1", IDENTITY, "envoy")
    stream.set_snapshot(snapshot, "v")
    envoy.connect(stream)
    envoy.say_all()
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
    envoy.say_all()
    assert [(names, removed) for _, names, removed in settle(envoy, again, snapshot) if names or removed] == []


def test_a_changed_cluster_gets_its_endpoints_again_although_nobody_asks():
    snapshot = snapshot_of({"a": 0}, 0, 0)
    envoy, stream = connected(snapshot)
    settle(envoy, stream, snapshot)
    changed = snapshot_of({"a": 1}, 0, 0)
    stream.set_snapshot(changed, "v2")
    assert settle(envoy, stream, changed) == [("cluster", ["a"], []), ("endpoint", ["a"], [])]


def test_a_cluster_that_changed_while_the_client_was_away_gets_its_endpoints_however_late_it_asks():
    """Envoy says which endpoints it has after the cluster has gone out, and warms it until they come again."""
    snapshot = snapshot_of({"a": 0}, 0, 0)
    envoy, stream = connected(snapshot)
    settle(envoy, stream, snapshot)
    changed = snapshot_of({"a": 1}, 0, 0)
    again = DeltaStream("caller/caller-1", IDENTITY, "envoy")
    again.set_snapshot(changed, "v2")
    envoy.connect(again)
    envoy.take(again.next_response(), changed)
    envoy.say_all()
    assert ("endpoint", ["a"], []) in settle(envoy, again, changed)


def test_after_a_reconnect_clusters_stay_until_the_routes_have_left_them():
    snapshot = snapshot_of({"a": 0, "b": 0}, 0, 0)
    envoy, stream = connected(snapshot)
    settle(envoy, stream, snapshot)
    changed = snapshot_of({"a": 0}, 0, 1)
    again = DeltaStream("caller/caller-1", IDENTITY, "envoy")
    again.set_snapshot(changed, "v2")
    envoy.connect(again)
    first = settle(envoy, again, changed)
    envoy.say_all()
    then = settle(envoy, again, changed)
    assert [kind for kind, found, removed in first + then if found or removed] == ["route", "cluster"]
    assert ("cluster", [], ["b"]) in then


def test_a_client_whose_listeners_are_refused_still_loses_clusters_that_are_gone():
    snapshot = snapshot_of({"a": 0, "b": 0}, 0, 0)
    envoy, stream = connected(snapshot)
    envoy.bad.add((names.LISTENER, "outbound", "0"))
    settle(envoy, stream, snapshot)
    changed = snapshot_of({"a": 0}, 0, 0)
    again = DeltaStream("caller/caller-1", IDENTITY, "envoy")
    again.set_snapshot(changed, "v2")
    envoy.connect(again)
    envoy.say_all()
    assert ("cluster", [], ["b"]) in settle(envoy, again, changed)


def test_what_was_refused_is_not_sent_again_until_it_changes():
    snapshot = snapshot_of({"a": 0, "b": 0}, 0, 0)
    envoy, stream = connected(snapshot)
    settle(envoy, stream, snapshot)
    envoy.bad.add((names.CLUSTER, "a", "1"))
    refused = snapshot_of({"a": 1, "b": 1}, 0, 0)
    stream.set_snapshot(refused, "v2")
    settle(envoy, stream, refused)
    assert envoy.has[names.CLUSTER] == {"a": "0", "b": "1"}
    assert {kind.type: kind.held_back for kind in stream.status().resources if kind.held_back} == {"cluster": ("a",)}
    stream.set_snapshot(refused, "v2")
    assert settle(envoy, stream, refused) == []
    mended = snapshot_of({"a": 2, "b": 1}, 0, 0)
    stream.set_snapshot(mended, "v3")
    settle(envoy, stream, mended)
    assert envoy.has[names.CLUSTER] == {"a": "2", "b": "1"}


def test_after_a_refusal_the_client_has_what_it_had_and_is_not_sent_it_again():
    good, bad = snapshot_of({"a": 0}, 0, 0), snapshot_of({"a": 1}, 0, 0)
    envoy, stream = connected(good)
    settle(envoy, stream, good)
    envoy.bad.add((names.CLUSTER, "a", "1"))
    stream.set_snapshot(bad, "v2")
    settle(envoy, stream, bad)
    stream.set_snapshot(good, "v1")
    assert all("a" not in found for kind, found, _ in settle(envoy, stream, good) if kind == "cluster")
    assert [kind.held_back for kind in stream.status().resources if kind.held_back] == []
    stream.set_snapshot(bad, "v2")
    assert all("a" not in found for kind, found, _ in settle(envoy, stream, bad) if kind == "cluster")


def test_a_cluster_that_was_refused_at_first_is_not_said_to_be_gone():
    bad, without = snapshot_of({"a": 1}, 0, 0), snapshot_of({}, 0, 0)
    envoy, stream = connected(snapshot_of({}, 0, 0))
    envoy.bad.add((names.CLUSTER, "a", "1"))
    stream.set_snapshot(bad, "v")
    settle(envoy, stream, bad)
    stream.set_snapshot(without, "v2")
    assert [removed for _, _, removed in settle(envoy, stream, without) if removed] == []


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


def test_what_was_on_its_way_when_the_client_left_everything_and_came_back_is_said_to_be_gone():
    """It takes what it gets while it wants it, although the response was built before it left."""
    stream = DeltaStream("caller/caller-1", IDENTITY, "envoy")
    stream.set_snapshot(snapshot_of({"a": 0}, 0, 0), "v")
    stream.receive(request(names.CLUSTER))
    on_its_way = stream.next_response()
    stream.receive(request(names.CLUSTER, unsubscribe=["*"]))
    stream.set_snapshot(snapshot_of({}, 0, 0), "v2")
    stream.receive(request(names.CLUSTER, subscribe=["*"]))
    stream.receive(request(names.CLUSTER, nonce=on_its_way.nonce))
    assert list(stream.next_response().removed_resources) == ["a"]
