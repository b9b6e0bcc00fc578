"""Make before break while answers are still on their way: sent is not yet there."""

import pytest

from mesh.model import SpiffeId
from mesh.xds import names
from mesh.xds.descriptors import envoy_message
from mesh.xds.resources import Resource
from mesh.xds.snapshot import Snapshot
from mesh.xds.stream import DeltaStream

IDENTITY = SpiffeId("mesh.test", "default", "caller")
SHORT = names.SHORT_NAMES


def snapshot_of(*clusters):
    """Routes lead to all clusters, so their version tells which."""

    def of(url, versions):
        return {name: Resource(url, name, version, b"") for name, version in versions.items()}

    return Snapshot(
        {
            names.CLUSTER: of(names.CLUSTER, dict.fromkeys(clusters, "1")),
            names.ENDPOINT: of(names.ENDPOINT, dict.fromkeys(clusters, "1")),
            names.LISTENER: of(names.LISTENER, {"outbound": "1"}),
            names.ROUTE: of(names.ROUTE, {"outbound": " ".join(clusters)}),
        },
        frozenset(clusters),
    )


class Client:
    """Acknowledges when it is told to, and not before."""

    def __init__(self, *clusters):
        self.stream = DeltaStream("caller/caller-1", IDENTITY, "envoy")
        self.stream.set_snapshot(snapshot_of(*clusters), "v1")
        self.unacknowledged = {}
        for url in (names.CLUSTER, names.LISTENER):
            self.ask(url)

    def ask(self, url, **fields):
        made = envoy_message("envoy.service.discovery.v3.DeltaDiscoveryRequest")(type_url=url, **fields)
        self.stream.receive(made)

    def read(self):
        """Short names of the types of all that comes without another word from here."""
        came = []
        while (response := self.stream.next_response()) is not None:
            self.unacknowledged[response.type_url] = response.nonce
            came.append((SHORT[response.type_url], sorted(r.name for r in response.resources)))
        return came

    def acknowledge(self, url):
        self.ask(url, response_nonce=self.unacknowledged.pop(url))

    def subscribe(self, url, *wanted):
        self.ask(url, resource_names_subscribe=wanted)

    def settle(self):
        while self.read() or self.unacknowledged:
            for url in tuple(self.unacknowledged):
                self.acknowledge(url)


@pytest.fixture
def client():
    """One that has everything there is: the cluster a."""
    found = Client("a")
    found.settle()
    found.subscribe(names.ENDPOINT, "a")
    found.settle()
    found.subscribe(names.ROUTE, "outbound")
    found.settle()
    return found


def test_at_the_start_nothing_leads_to_a_cluster_that_has_not_been_acknowledged_or_has_no_endpoints():
    client = Client("a")
    client.subscribe(names.ROUTE, "outbound")
    assert client.read() == [("cluster", ["a"])]
    client.acknowledge(names.CLUSTER)
    assert client.read() == []
    client.subscribe(names.ENDPOINT, "a")
    assert client.read() == [("endpoint", ["a"])]
    client.acknowledge(names.ENDPOINT)
    assert client.read() == [("listener", ["outbound"]), ("route", ["outbound"])]


def test_endpoints_that_are_asked_for_before_the_clusters_are_acknowledged_open_no_way_around():
    client = Client("a")
    client.read()
    client.subscribe(names.ENDPOINT, "a")
    assert client.read() == [("endpoint", ["a"])]
    client.acknowledge(names.ENDPOINT)
    assert client.read() == []
    client.acknowledge(names.CLUSTER)
    assert client.read() == [("listener", ["outbound"])]


def test_a_route_to_a_new_cluster_waits_for_it_and_its_endpoints(client):
    client.stream.set_snapshot(snapshot_of("a", "b"), "v2")
    assert client.read() == [("cluster", ["b"])]
    client.acknowledge(names.CLUSTER)
    assert client.read() == []
    client.subscribe(names.ENDPOINT, "b")
    assert client.read() == [("endpoint", ["b"])]
    client.acknowledge(names.ENDPOINT)
    assert client.read() == [("route", ["outbound"])]


def test_a_cluster_that_comes_while_another_is_on_its_way_is_waited_for_too(client):
    client.stream.set_snapshot(snapshot_of("a", "b"), "v2")
    assert client.read() == [("cluster", ["b"])]
    client.stream.set_snapshot(snapshot_of("a", "b", "c"), "v3")
    client.subscribe(names.ENDPOINT, "b")
    assert client.read() == [("endpoint", ["b"])]
    client.acknowledge(names.ENDPOINT)
    assert client.read() == []
    client.acknowledge(names.CLUSTER)
    assert client.read() == [("cluster", ["c"])]
    client.subscribe(names.ENDPOINT, "c")
    client.acknowledge(names.CLUSTER)
    assert client.read() == [("endpoint", ["c"])]
    client.acknowledge(names.ENDPOINT)
    assert client.read() == [("route", ["outbound"])]


def test_a_cluster_goes_only_when_routes_without_it_have_been_acknowledged(client):
    client.stream.set_snapshot(snapshot_of("b"), "v2")
    assert client.read() == [("cluster", ["b"])]
    client.acknowledge(names.CLUSTER)
    client.subscribe(names.ENDPOINT, "b")
    client.read()
    client.acknowledge(names.ENDPOINT)
    assert client.read() == [("route", ["outbound"])]
    client.acknowledge(names.ROUTE)
    removal = client.stream.next_response()
    assert (SHORT[removal.type_url], list(removal.removed_resources)) == ("cluster", ["a"])


def test_a_refused_cluster_holds_up_no_other(client):
    client.stream.set_snapshot(snapshot_of("a", "b"), "v2")
    client.read()
    refusal = envoy_message("envoy.service.discovery.v3.DeltaDiscoveryRequest")(
        type_url=names.CLUSTER, response_nonce=client.unacknowledged.pop(names.CLUSTER)
    )
    refusal.error_detail.message = "b: no"
    client.stream.receive(refusal)
    assert client.read() == [("route", ["outbound"])]
