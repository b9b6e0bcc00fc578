"""What one client may ask for has bounds, and what it says in a refusal is cut before it is logged."""

import pytest

from mesh.errors import InvalidInput, ResourceExhausted
from mesh.model import SpiffeId
from mesh.telemetry import configure_logs
from mesh.xds import names
from mesh.xds.descriptors import envoy_message
from mesh.xds.limits import LONGEST_COMPLAINT, LONGEST_NAME, MOST_NAMES, MOST_TYPES
from mesh.xds.stream import DeltaStream, StateStream

IDENTITY = SpiffeId("mesh.test", "default", "caller")
REQUESTS = {
    DeltaStream: "envoy.service.discovery.v3.DeltaDiscoveryRequest",
    StateStream: "envoy.service.discovery.v3.DiscoveryRequest",
}


def request(kind, url, **fields):
    return envoy_message(REQUESTS[kind])(type_url=url, **fields)


@pytest.mark.parametrize("kind", REQUESTS)
def test_endless_types_are_refused(kind):
    stream = kind("caller/caller-1", IDENTITY, "test")
    with pytest.raises(InvalidInput):
        for number in range(MOST_TYPES + 1):
            stream.receive(request(kind, f"type.googleapis.com/nothing.{number}"))


def test_names_that_add_up_beyond_measure_are_refused():
    stream = DeltaStream("caller/caller-1", IDENTITY, "test")
    half = MOST_NAMES // 2 + 1
    stream.receive(request(DeltaStream, names.ENDPOINT, resource_names_subscribe=[f"a{n}" for n in range(half)]))
    with pytest.raises(ResourceExhausted) as caught:
        stream.receive(request(DeltaStream, names.ENDPOINT, resource_names_subscribe=[f"b{n}" for n in range(half)]))
    assert not caught.value.retryable


def test_too_many_names_in_one_state_of_the_world_request_are_refused():
    stream = StateStream("caller/caller-1", IDENTITY, "gRPC")
    with pytest.raises(ResourceExhausted):
        stream.receive(request(StateStream, names.ENDPOINT, resource_names=[f"a{n}" for n in range(MOST_NAMES + 1)]))


@pytest.mark.parametrize("kind", REQUESTS)
def test_names_that_are_far_too_long_are_refused(kind):
    """Twenty thousand names of a megabyte each would be remembered."""
    stream = kind("caller/caller-1", IDENTITY, "test")
    field = "resource_names_subscribe" if kind is DeltaStream else "resource_names"
    stream.receive(request(kind, names.ENDPOINT, **{field: ["a" * LONGEST_NAME]}))
    with pytest.raises(InvalidInput):
        stream.receive(request(kind, names.ENDPOINT, **{field: ["a" * (LONGEST_NAME + 1)]}))
    with pytest.raises(InvalidInput):
        stream.receive(request(kind, "t" * (LONGEST_NAME + 1)))


def test_versions_that_are_far_too_long_are_refused():
    stream = DeltaStream("caller/caller-1", IDENTITY, "test")
    with pytest.raises(InvalidInput):
        stream.receive(request(DeltaStream, names.ENDPOINT, initial_resource_versions={"a": "1" * (LONGEST_NAME + 1)}))


def test_a_type_that_is_not_served_is_said_to_have_nothing():
    stream = DeltaStream("caller/caller-1", IDENTITY, "test")
    stream.receive(request(DeltaStream, "type.googleapis.com/nothing", resource_names_subscribe=["x"]))
    answer = stream.next_response()
    assert list(answer.removed_resources) == ["x"]


def test_a_long_complaint_is_cut(capfd):
    configure_logs("test")
    stream = DeltaStream("caller/caller-1", IDENTITY, "test")
    stream.receive(request(DeltaStream, names.CLUSTER, resource_names_subscribe=["x"]))
    nonce = stream.next_response().nonce
    refusal = request(DeltaStream, names.CLUSTER, response_nonce=nonce)
    refusal.error_detail.message = "no" * 100_000
    stream.receive(refusal)
    assert len(capfd.readouterr().err) < 10_000
    (status,) = stream.status().resources
    assert len(status.nack_message) == LONGEST_COMPLAINT
