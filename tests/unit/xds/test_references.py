"""A snapshot is whole: whatever a resource leads to is in it."""

import pytest

from mesh.errors import Internal
from mesh.xds import names
from mesh.xds.reconcile import Reconciler
from mesh.xds.references import references_of
from mesh.xds.resources import build_resource
from mesh.xds.resources.clusters import build_app_cluster
from mesh.xds.snapshot import build_snapshot


def all_of(snapshot):
    return [resource for url in names.SHORT_NAMES for resource in snapshot.of(url).values()]


@pytest.mark.parametrize("kind", ["sidecar", "gateway", "exposed_health"])
def test_no_resource_that_others_need_can_be_left_out(kind, state, specs):
    found = all_of(Reconciler().sidecar_snapshot(state, specs[kind]))
    needed = {reference for resource in found for reference in references_of(resource)}
    assert needed
    for url, name in needed:
        rest = [resource for resource in found if (resource.type_url, resource.name) != (url, name)]
        with pytest.raises(Internal, match=f"leads to the {names.SHORT_NAMES[url]} '{name}'"):
            build_snapshot(*rest)


def test_no_resource_of_grpcs_own_client_that_others_need_can_be_left_out(state):
    found = all_of(Reconciler().client_snapshot(state, "caller"))
    for url, name in {reference for resource in found for reference in references_of(resource)}:
        with pytest.raises(Internal):
            build_snapshot(*(it for it in found if (it.type_url, it.name) != (url, name)))


def test_each_share_of_a_split_is_a_reference():
    shares = [{"name": "a", "weight": 1}, {"name": "b", "weight": 99}]
    route = {"match": {"prefix": "/"}, "route": {"weighted_clusters": {"clusters": shares}}}
    hosts = [{"name": "all", "domains": ["*"], "routes": [route]}]
    routes = build_resource(names.ROUTE, "split", {"name": "split", "virtual_hosts": hosts})
    assert references_of(routes) == {(names.CLUSTER, "a"), (names.CLUSTER, "b")}


def test_a_cluster_with_its_own_endpoints_needs_nothing():
    assert references_of(build_app_cluster("/run/app.sock")) == frozenset()


def test_a_cluster_that_needs_endpoints_must_be_there():
    with pytest.raises(Internal, match="echo"):
        build_snapshot(endpoint_clusters=frozenset({"echo"}))
