"""A state-of-the-world stream against a model of gRPC's own client: it names all that it wants, each time."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from mesh.model import SpiffeId
from mesh.xds import names
from mesh.xds.descriptors import envoy_message
from mesh.xds.resources import Resource
from mesh.xds.snapshot import Snapshot
from mesh.xds.stream import StateStream

IDENTITY = SpiffeId("mesh.test", "default", "caller")
MOST_STEPS = 100
KINDS = (names.LISTENER, names.ROUTE, names.CLUSTER, names.ENDPOINT)
NAMES = st.sampled_from(["a", "b", "a-b", "c"])
VERSIONS = st.dictionaries(NAMES, st.integers(0, 3), max_size=4)


def request(url, wanted, *, nonce="", error=""):
    made = envoy_message("envoy.service.discovery.v3.DiscoveryRequest")(
        type_url=url, resource_names=sorted(wanted), response_nonce=nonce
    )
    if error:
        made.error_detail.message = error
    return made


def snapshot_of(found):
    """From type URLs to versions by name; the body tells the version, which state of the world does not."""
    return Snapshot(
        {
            url: {name: Resource(url, name, str(version), f"{name}:{version}".encode()) for name, version in it.items()}
            for url, it in found.items()
        }
    )


class Client:
    """Keeps what it gets, and of what it refuses the last good version."""

    def __init__(self, stream, *, names_what_is_bad=True):
        self.stream = stream
        self.names_what_is_bad = names_what_is_bad
        self.wanted = {}
        self.has = {url: {} for url in KINDS}
        self.bad = set()
        self.refused = []
        self.taken = set()

    def want(self, url, wanted):
        self.wanted[url] = set(wanted)
        for name in self.has[url].keys() - wanted:
            del self.has[url][name]
        self.stream.receive(request(url, wanted))

    def take(self, response):
        response = envoy_message("envoy.service.discovery.v3.DiscoveryResponse").FromString(response.to_bytes())
        url = response.type_url
        got = dict(packed.value.decode().split(":") for packed in response.resources)
        bad = [name for name, version in got.items() if (url, name, version) in self.bad]
        again = [(url, name, got[name]) for name in bad if (url, name, got[name]) in self.refused]
        assert not again, "what was refused was sent again"
        self.refused += [(url, name, got[name]) for name in bad]
        if url in names.WILDCARD_TYPES:
            # All that is not in it is gone.
            self.has[url] = {name: version for name, version in self.has[url].items() if name in got}
        for name in got.keys() - bad:
            if name in self.wanted[url]:
                self.has[url][name] = got[name]
                self.taken.add((url, name, got[name]))
        words = f"errors: {', '.join(bad)}" if self.names_what_is_bad else "something is wrong"
        self.stream.receive(request(url, self.wanted[url], nonce=response.nonce, error=words if bad else ""))

    def settle(self):
        """What was sent until the stream came to rest."""
        sent = []
        while (response := self.stream.next_response()) is not None:
            assert len(sent) < MOST_STEPS, "the stream never comes to rest"
            sent.append((names.SHORT_NAMES[response.type_url], len(response.resources)))
            self.take(response)
        return sent


def connected(snapshot, **more):
    stream = StateStream("caller/caller-1", IDENTITY, "gRPC C-core")
    stream.set_snapshot(snapshot, "v")
    return Client(stream, **more)


class StateMachine(RuleBasedStateMachine):
    @initialize(clusters=VERSIONS, endpoints=VERSIONS)
    def begin(self, clusters, endpoints):
        self.snapshot = snapshot_of({names.CLUSTER: clusters, names.ENDPOINT: endpoints})
        self.client = connected(self.snapshot)

    @rule(url=st.sampled_from(KINDS), versions=VERSIONS)
    def change(self, url, versions):
        found = {kind: {n: int(r.version) for n, r in self.snapshot.of(kind).items()} for kind in KINDS}
        self.snapshot = snapshot_of(found | {url: versions})
        self.client.stream.set_snapshot(self.snapshot, "v")

    @rule(url=st.sampled_from(KINDS), wanted=st.sets(NAMES, min_size=1))
    def want(self, url, wanted):
        self.client.want(url, wanted)

    @rule(url=st.sampled_from(KINDS), name=NAMES, version=st.integers(1, 3))
    def refuse(self, url, name, version):
        """What a client has taken once it does not refuse later."""
        if (url, name, str(version)) not in self.client.taken:
            self.client.bad.add((url, name, str(version)))

    @rule()
    def exchange_one(self):
        if (response := self.client.stream.next_response()) is not None:
            self.client.take(response)

    @rule()
    def reconnect(self):
        before = self.client
        self.client = connected(self.snapshot)
        self.client.bad, self.client.has, self.client.taken = before.bad, before.has, before.taken
        for url, wanted in before.wanted.items():
            self.client.want(url, wanted)

    @rule()
    def exchange_all(self):
        self.client.settle()
        for url, wanted in self.client.wanted.items():
            for name, resource in self.snapshot.of(url).items():
                if name in wanted and (url, name, resource.version) not in self.client.bad:
                    assert self.client.has[url].get(name) == resource.version, (url, name)
            if url in names.WILDCARD_TYPES:
                assert self.client.has[url].keys() <= self.snapshot.of(url).keys()
        assert self.client.settle() == []


TestStateStream = StateMachine.TestCase
TestStateStream.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)


@pytest.mark.parametrize("names_what_is_bad", [True, False])
def test_what_was_refused_stays_away_while_others_change_and_the_last_good_stays(names_what_is_bad):
    client = connected(snapshot_of({names.CLUSTER: {"a": 0, "b": 0}}), names_what_is_bad=names_what_is_bad)
    client.want(names.CLUSTER, {"a", "b"})
    client.settle()
    client.bad.add((names.CLUSTER, "a", "1"))
    client.stream.set_snapshot(snapshot_of({names.CLUSTER: {"a": 1, "b": 0}}), "v1")
    client.settle()
    (status,) = client.stream.status().resources
    assert status.held_back == ("a",)
    client.stream.set_snapshot(snapshot_of({names.CLUSTER: {"a": 1, "b": 1}}), "v2")
    assert client.settle() == [("cluster", 2)]
    assert client.has[names.CLUSTER] == {"a": "0", "b": "1"}
    assert client.refused == [(names.CLUSTER, "a", "1")]
    client.stream.set_snapshot(snapshot_of({names.CLUSTER: {"a": 2, "b": 1}}), "v3")
    client.settle()
    assert client.has[names.CLUSTER] == {"a": "2", "b": "1"}
    assert client.stream.status().resources[0].held_back == ()


def test_a_refused_resource_that_was_never_good_is_left_out():
    client = connected(snapshot_of({names.CLUSTER: {"a": 1, "b": 0}}))
    client.bad.add((names.CLUSTER, "a", "1"))
    client.want(names.CLUSTER, {"a", "b"})
    assert client.settle() == [("cluster", 2)]
    client.stream.set_snapshot(snapshot_of({names.CLUSTER: {"a": 1, "b": 1}}), "v2")
    assert client.settle() == [("cluster", 1)]
    assert client.has[names.CLUSTER] == {"b": "1"}


def test_nothing_is_said_of_endpoints_that_do_not_exist_but_a_missing_cluster_is_told():
    client = connected(snapshot_of({}))
    client.want(names.ENDPOINT, {"nobody"})
    assert client.settle() == []
    client.want(names.CLUSTER, {"nobody"})
    assert client.settle() == [("cluster", 0)]


def test_an_acknowledgement_of_something_older_acknowledges_nothing():
    client = connected(snapshot_of({names.CLUSTER: {"a": 0}}))
    client.wanted[names.CLUSTER] = {"a"}
    client.stream.receive(request(names.CLUSTER, {"a"}))
    client.stream.next_response()
    client.stream.receive(request(names.CLUSTER, {"a"}, nonce="999"))
    client.stream.set_snapshot(snapshot_of({names.CLUSTER: {"a": 1}}), "v1")
    assert client.stream.next_response() is None
    (status,) = client.stream.status().resources
    assert status.acked_version == ""


def test_names_that_come_with_an_older_nonce_count():
    """A client sends its names once: the request may cross a response on the way."""
    client = connected(snapshot_of({names.ENDPOINT: {"a": 0, "b": 0}}))
    client.want(names.ENDPOINT, {"a"})
    first = client.stream.next_response()
    client.want(names.ENDPOINT, {"a", "b"})
    client.take(first)
    assert client.settle() == [("endpoint", 1)]
    assert client.has[names.ENDPOINT] == {"a": "0", "b": "0"}
