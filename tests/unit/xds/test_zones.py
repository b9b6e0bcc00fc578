"""Callers prefer the instances of their own zone, as far as these can carry the traffic."""

import pytest

from mesh.model import Instance
from mesh.xds.descriptors import envoy_message
from mesh.xds.resources.endpoints import build_client_endpoints, build_endpoints

BOTH = [build_endpoints, build_client_endpoints]


def instance(number, zone, *, is_healthy=True):
    return Instance("x", f"x-{number}", "h", number, metadata={"zone": zone} if zone else {}, is_healthy=is_healthy)


def levels(resource):
    message = envoy_message("envoy.config.endpoint.v3.ClusterLoadAssignment").FromString(resource.body)
    found = {}
    for locality in message.endpoints:
        for it in locality.lb_endpoints:
            healthy = it.health_status == 1
            port = it.endpoint.address.socket_address.port_value
            found.setdefault(locality.priority, []).append((port, locality.locality.zone, healthy))
    return found


@pytest.mark.parametrize("build", BOTH)
def test_the_own_zone_comes_first_and_the_others_after_it(build):
    built = build("x", [instance(1, "west"), instance(2, "east"), instance(3, ""), instance(4, "east")], zone="east")
    assert levels(built) == {
        0: [(2, "east", True), (4, "east", True)],
        1: [(3, "", True), (1, "west", True)],
    }


@pytest.mark.parametrize("build", BOTH)
@pytest.mark.parametrize("zone", ["", "north"])
def test_without_a_choice_all_have_the_same_priority(build, zone):
    instances = [instance(1, "west"), instance(2, "east")]
    assert levels(build("x", instances, zone=zone)) == {0: [(2, "east", True), (1, "west", True)]}


@pytest.mark.parametrize("build", BOTH)
def test_a_zone_without_a_healthy_instance_has_no_priority(build):
    instances = [instance(1, "east", is_healthy=False), instance(2, "west")]
    assert levels(build("x", instances, zone="east")) == {0: [(2, "west", True)]}


def test_envoy_is_told_how_much_of_the_own_zone_is_left():
    """Without them 1 of 3 would look like 1 of 1, and the last healthy instance would take everything."""
    own = [instance(1, "east"), instance(2, "east", is_healthy=False), instance(3, "east", is_healthy=False)]
    others = [instance(4, "west"), instance(5, "west", is_healthy=False)]
    assert levels(build_endpoints("x", [*own, *others], zone="east")) == {
        0: [(1, "east", True), (2, "east", False), (3, "east", False)],
        1: [(4, "west", True)],
    }
    assert levels(build_client_endpoints("x", [*own, *others], zone="east")) == {
        0: [(1, "east", True)],
        1: [(4, "west", True)],
    }


def test_endpoints_have_the_name_of_their_cluster():
    assert build_endpoints("v2.x", [instance(1, "")]).name == "v2.x"
