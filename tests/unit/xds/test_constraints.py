import pytest
from google.protobuf import json_format

from mesh.xds import names
from mesh.xds.constraints import check_constraints, check_resource
from mesh.xds.descriptors import ROOTS, envoy_message, envoy_pool
from mesh.xds.reconcile import Reconciler


def build(name, literal):
    return json_format.ParseDict(literal, envoy_message(f"envoy.{name}")(), descriptor_pool=envoy_pool())


def flaws(name, literal):
    return check_constraints(build(name, literal))


def route(action):
    hosts = [{"name": "h", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, **action}]}]
    return {"name": "r", "virtual_hosts": hosts}


@pytest.mark.parametrize("kind", ["sidecar", "gateway", "exposed_health", "pure_client"])
def test_what_the_mesh_builds_breaks_no_rule(kind, state, specs):
    snapshot = Reconciler().sidecar_snapshot(state, specs[kind])
    resources = [resource for url in names.PUSH_ORDER for resource in snapshot.of(url).values()]
    assert resources
    assert [flaw for resource in resources for flaw in check_resource(resource)] == []


def test_every_rule_that_this_envoy_carries_is_known():
    """Checking an empty message makes the plan of its type, which raises for a rule that is not known."""
    seen = set()
    todo = [kind for root in ROOTS for kind in envoy_pool().FindFileByName(root).message_types_by_name.values()]
    while todo:
        kind = todo.pop()
        if kind.full_name not in seen:
            seen.add(kind.full_name)
            check_constraints(envoy_message(kind.full_name)())
            todo += [field.message_type for field in kind.fields if field.message_type is not None]
    assert len(seen) > 400


HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
CLUSTER, ROUTES = "config.cluster.v3.Cluster", "config.route.v3.RouteConfiguration"
ENDPOINTS, LISTENER = "config.endpoint.v3.ClusterLoadAssignment", "config.listener.v3.Listener"


@pytest.mark.parametrize(
    ("name", "literal", "flaw"),
    [
        (CLUSTER, {}, "name: must not be empty"),
        (CLUSTER, {"name": "c", "connect_timeout": "0s"}, "connect_timeout: must be greater than 0s"),
        (CLUSTER, {"name": "c", "lb_policy": 77}, "lb_policy: 77 is no value of its enum"),
        (
            CLUSTER,
            {"name": "c", "ring_hash_lb_config": {"minimum_ring_size": 9_000_000}},
            "ring_hash_lb_config.minimum_ring_size: must be at most 8388608",
        ),
        (
            CLUSTER,
            {"name": "c", "outlier_detection": {"max_ejection_percent": 101}},
            "outlier_detection.max_ejection_percent: must be at most 100",
        ),
        (
            CLUSTER,
            {"name": "c", "common_lb_config": {"healthy_panic_threshold": {"value": -0.5}}},
            "common_lb_config.healthy_panic_threshold.value: must be at least 0",
        ),
        (ENDPOINTS, {}, "cluster_name: must not be empty"),
        (
            ENDPOINTS,
            {"cluster_name": "c", "endpoints": [{"lb_endpoints": [{"load_balancing_weight": 0}]}]},
            "endpoints[0].lb_endpoints[0].load_balancing_weight: must be at least 1",
        ),
        (
            ENDPOINTS,
            {"cluster_name": "c", "endpoints": [{"priority": 129}]},
            "endpoints[0].priority: must be at most 128",
        ),
        (
            ROUTES,
            {"virtual_hosts": [{"name": "h"}]},
            "virtual_hosts[0].domains: has 0 items, must have at least 1",
        ),
        (
            ROUTES,
            {"virtual_hosts": [{"name": "h", "domains": ["*"], "routes": [{"match": {"prefix": "/"}}]}]},
            "virtual_hosts[0].routes[0].action: one of route, redirect, direct_response, filter_action, "
            "non_forwarding_action must be set",
        ),
        (
            ROUTES,
            {"request_headers_to_add": [{"header": {"key": "x", "value": "a\nb"}}]},
            "request_headers_to_add[0].header.value: cannot be the value of a header",
        ),
        (
            ROUTES,
            {"internal_only_headers": ["a\nb"]},
            "internal_only_headers[0]: is no name of a header",
        ),
        (
            ROUTES,
            route({"direct_response": {"status": 99}}),
            "virtual_hosts[0].routes[0].direct_response.status: must be at least 200",
        ),
    ],
)
def test_a_broken_rule_is_told_with_its_field(name, literal, flaw):
    assert flaw in flaws(name, literal)


def test_what_is_inside_of_any_is_checked_too():
    manager = {
        "@type": f"type.googleapis.com/{HCM}",
        "rds": {"route_config_name": "r", "config_source": {"ads": {}}},
        "max_request_headers_kb": 9000,
    }
    chains = [{"filters": [{"name": "hcm", "typed_config": manager}]}]
    found = flaws(LISTENER, {"name": "l", "filter_chains": chains})
    assert found == [
        "filter_chains[0].filters[0].typed_config.stat_prefix: must not be empty",
        "filter_chains[0].filters[0].typed_config.max_request_headers_kb: must be at most 8192",
    ]


def test_garbage_inside_of_any_is_told():
    listener = build(LISTENER, {"name": "l", "filter_chains": [{"filters": [{"name": "hcm"}]}]})
    packed = listener.filter_chains[0].filters[0].typed_config
    packed.type_url = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
    packed.value = b"\xff\xff"
    assert check_constraints(listener) == [
        "filter_chains[0].filters[0].typed_config: is no envoy.config.cluster.v3.Cluster"
    ]


def test_a_field_that_is_not_set_breaks_no_rule_of_its_value():
    assert flaws(CLUSTER, {"name": "c"}) == []
    assert flaws(CLUSTER, {"name": "c", "outlier_detection": {}}) == []
