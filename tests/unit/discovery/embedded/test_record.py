from dataclasses import replace

import pytest

from agentmesh.registry.v1 import registry_service_pb2 as pb
from mesh.discovery.embedded.record import (
    LEASE,
    MAX_BYTES,
    check_record,
    instance_to_proto,
    record_from_proto,
    record_to_proto,
)
from mesh.errors import InvalidInput
from mesh.model import Address, Instance


def test_a_record_comes_back_from_its_message(record):
    whole = record(kind="mcp", version="1.2", capabilities=("irr", "npv"), metadata={"zone": "b"}, is_healthy=False)
    whole = replace(whole, instance=replace(whole.instance, health_output="Connection refused."))
    assert record_from_proto(record_to_proto(whole)) == whole


def test_what_a_request_leaves_out_has_a_default():
    request = pb.RegisterRequest(instance=pb.Instance(service="a", id="a-1", address="10.0.0.1", port=7))
    read = record_from_proto(request)
    assert read.check.target == Address("10.0.0.1", 7)
    assert (read.check.interval, read.check.timeout, read.check.deregister_after) == (1.0, 2.0, 60.0)
    assert not read.check.use_tls
    assert read.lease == LEASE
    assert (read.instance.kind, read.instance.protocol) == ("service", "grpc")


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("instance.service", {"service": "No Name"}),
        ("instance.id", {"id": ""}),
        ("instance.id", {"id": "../x"}),
        ("instance.kind", {"kind": "robot"}),
        ("instance.address", {"address": ""}),
        ("instance.address", {"address": "unix:///run/x"}),
        ("instance.address", {"address": "a b"}),
        ("instance.address", {"port": 0}),
        ("instance.address", {"port": 65536}),
    ],
)
def test_an_instance_that_cannot_be_is_refused_by_field(record, field, changes):
    whole = record()
    with pytest.raises(InvalidInput) as caught:
        check_record(replace(whole, instance=replace(whole.instance, **changes)))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("health_check.host", {"target": Address("unix:///x", 1)}),
        ("health_check.host", {"target": Address("127.0.0.1", 0)}),
        ("health_check.interval", {"interval": 0.0}),
        ("health_check.timeout", {"timeout": 1e9}),
        ("health_check.deregister_after", {"deregister_after": 0.5}),
    ],
)
def test_a_check_that_cannot_be_is_refused_by_field(record, field, changes):
    whole = record()
    with pytest.raises(InvalidInput) as caught:
        check_record(replace(whole, check=replace(whole.check, **changes)))
    assert caught.value.field == field


@pytest.mark.parametrize("lease", [0.0, -1.0, 1e6, float("nan")])
def test_a_lease_out_of_bounds_is_refused(record, lease):
    with pytest.raises(InvalidInput) as caught:
        check_record(record(lease=lease) if lease == lease else replace(record(), lease=lease))
    assert caught.value.field == "lease"


def test_a_registration_is_bounded_in_size(record):
    with pytest.raises(InvalidInput, match="takes") as caught:
        check_record(record(metadata={"note": "x" * MAX_BYTES}))
    assert caught.value.field == "capabilities" or caught.value.field == "metadata"


def test_text_that_is_no_unicode_is_refused():
    with pytest.raises(InvalidInput, match="cannot be written down"):
        instance_to_proto(Instance("a", "a-1", "127.0.0.1", 1, version="\ud800"))
