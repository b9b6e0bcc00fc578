"""A refusal is written down, whatever was in the response that it is about."""

from mesh.model import SpiffeId
from mesh.xds import names
from mesh.xds.descriptors import envoy_message
from mesh.xds.resources import Resource
from mesh.xds.snapshot import EMPTY, Snapshot
from mesh.xds.stream import DeltaStream
from mesh.xds.subscription import DeltaSubscription, Plan

IDENTITY = SpiffeId("mesh.test", "default", "caller")


def resource(name, version="1"):
    return Resource(names.CLUSTER, name, version, b"")


def test_a_refused_removal_is_written_down_and_not_repeated():
    def request(**fields):
        return envoy_message("envoy.service.discovery.v3.DeltaDiscoveryRequest")(type_url=names.CLUSTER, **fields)

    stream = DeltaStream("caller/caller-1", IDENTITY, "envoy")
    stream.set_snapshot(Snapshot({names.CLUSTER: {"a": resource("a")}}), "v1")
    stream.receive(request())
    stream.receive(request(response_nonce=stream.next_response().nonce))
    stream.set_snapshot(EMPTY, "v2")
    removal = stream.next_response()
    assert list(removal.removed_resources) == ["a"]
    refusal = request(response_nonce=removal.nonce)
    refusal.error_detail.message = "a is in use"
    stream.receive(refusal)
    (status,) = stream.status().resources
    assert (status.nack_message, status.acked_version) == ("a is in use", "v1")
    assert stream.next_response() is None


def refused(message, *found):
    subscription = DeltaSubscription(is_wildcard=True)
    subscription.note_sent(Plan(tuple(resource(name) for name in found)), "1")
    return subscription.refuse("1", message)


def test_a_name_is_found_as_a_word_and_not_inside_of_another():
    complaint = "Error adding/updating cluster(s) a-b: bad, "
    assert refused(complaint, "a", "b", "a-b") == ("a-b",)
    assert refused("listener 'a.b': cannot bind", "a", "b", "a.b") == ("a.b",)
    assert refused("cluster a.", "a", "b") == ("a",)
    assert refused("cluster @a cannot be added", "a", "@a") == ("@a",)


def test_a_refusal_that_names_nothing_holds_back_all_of_it():
    assert refused("Protobuf message cannot be parsed", "alpha", "beta") == ("alpha", "beta")


def test_a_refusal_of_an_older_response_is_none():
    subscription = DeltaSubscription(is_wildcard=True)
    subscription.note_sent(Plan((resource("a"),)), "2")
    assert subscription.refuse("1", "a is bad") is None
    assert subscription.is_waiting


def test_a_complaint_about_one_resource_by_itself_leaves_the_others_taken():
    subscription = DeltaSubscription(is_wildcard=True)
    subscription.note_sent(Plan((resource("a"), resource("b")), removed=("c",)), "1")
    subscription.refuse("1", "Error adding/updating cluster(s) a: bad, ")
    assert not subscription.plan({"a": resource("a"), "b": resource("b")})


def test_a_complaint_that_may_be_about_all_has_the_others_sent_again():
    subscription = DeltaSubscription(is_wildcard=True, sent={"c": "1"})
    subscription.note_sent(Plan((resource("a"), resource("b")), removed=("c",)), "1")
    assert subscription.refuse("1", 'name: "a": Proto constraint validation failed') == ("a",)
    again = subscription.plan({"a": resource("a"), "b": resource("b")})
    assert again == Plan((resource("b"),), removed=("c",))
