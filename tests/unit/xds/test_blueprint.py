"""What a document means for the resources of proxies."""

from dataclasses import replace

import pytest

from mesh.config.document import MeshDocument, Policy
from mesh.errors import FailedPrecondition, InvalidInput
from mesh.model import Instance
from mesh.xds import names
from mesh.xds.blueprint import Blueprint, select
from mesh.xds.descriptors import envoy_message
from mesh.xds.reconcile import Reconciler
from mesh.xds.resources.routes import claim_domains


def policy_of(document, **more):
    return Policy(MeshDocument.model_validate(document), **more)


def blueprint_of(**services):
    return Blueprint(policy_of({"services": services}))


def routes_in(resource):
    return envoy_message("envoy.config.route.v3.RouteConfiguration").FromString(resource.body)


def test_the_routes_of_a_target_are_not_followed_but_its_fallbacks_are():
    plan = blueprint_of(
        a={"routes": [{"name": "r", "to": "b"}]},
        b={"routes": [{"name": "r", "to": "secret"}], "fallback": ["c"]},
        c={"fallback": ["d/v1", "a"]},
    )
    assert plan.targets(("a",)) == ("a", "b", "c", "d/v1")
    assert plan.fallbacks("b") == ("c", "d/v1", "a")


def test_fallbacks_in_a_circle_end():
    plan = blueprint_of(a={"fallback": ["b"]}, b={"fallback": ["a"]})
    assert plan.fallbacks("a") == ("b",)
    assert plan.fallbacks("a/v1") == ()


def test_a_subset_has_the_instances_with_its_version_and_all_of_its_metadata():
    plan = blueprint_of(a={"subsets": {"one": {"version": "1", "metadata": {"tier": "gold"}}}})
    instances = tuple(
        Instance("a", f"a-{n}", "10.0.0.1", n, version=version, metadata={"tier": tier})
        for n, (version, tier) in enumerate([("1", "gold"), ("1", "tin"), ("2", "gold")])
    )
    policy = plan.policy.of("a")
    assert [it.id for it in select(policy, "a/one", instances)] == ["a-0"]
    assert select(policy, "a/unknown", instances) == ()
    assert select(policy, "a", instances) == instances


def test_names_of_services_come_before_authorities_and_no_domain_is_there_twice():
    found = claim_domains([("a", ["b", "x.org"]), ("b", ["x.org", "y.org"])])
    assert found["a"] == ("a.mesh", "a.mesh:*", "a", "a:*", "x.org", "x.org:*")
    assert found["b"] == ("b.mesh", "b.mesh:*", "b", "b:*", "y.org", "y.org:*")


def test_only_the_callers_that_a_fault_names_get_it(state, specs):
    fault = {"abort": {"http": 500}, "callers": ["caller"]}
    plan = blueprint_of(echo={"fault": fault})
    assert plan.host("echo", "caller") != plan.host("echo", "gateway")
    calm = blueprint_of(echo={})
    assert calm.host("echo", "caller") is calm.host("echo", "gateway")


def test_a_changed_service_leaves_the_routes_of_others_as_they_are():
    document = {f"s{n}": {"routes": [{"name": "r", "timeout": "1s"}]} for n in range(50)}
    upstreams = tuple(sorted(document))
    before = blueprint_of(**document).outbound_routes("caller", upstreams)
    after = blueprint_of(**document | {"s7": {"timeout": "2s"}}).outbound_routes("caller", upstreams)
    hosts = [{host.name: host.SerializeToString() for host in routes_in(it).virtual_hosts} for it in (before, after)]
    assert [name for name in hosts[0] if hosts[0][name] != hosts[1][name]] == ["s7"]


def test_routes_that_are_put_together_as_bytes_are_what_protobuf_would_write():
    document = {f"s{n}": {"routes": [{"name": "r" * 60, "timeout": "1s"}] * 30} for n in range(3)}
    resource = blueprint_of(**document).outbound_routes("caller", tuple(sorted(document)))
    assert routes_in(resource).SerializeToString(deterministic=True) == resource.body


def test_a_secret_without_a_value_is_told_by_name():
    headers = {"request": {"set": {"x-key": {"secret": "env:KEY"}}}}
    plan = blueprint_of(a={"routes": [{"name": "r", "headers": headers}]})
    with pytest.raises(FailedPrecondition, match="env:KEY"):
        plan.outbound_routes("caller", ("a",))


def test_a_split_without_any_share_is_refused():
    with pytest.raises(InvalidInput):
        blueprint_of(a={"split": {"a": 0}}).outbound_routes("caller", ("a",))


def test_an_intention_changes_routes_and_no_listener(state, specs):
    def versions(found):
        snapshot = Reconciler().sidecar_snapshot(found, specs["sidecar"])
        return {(url, it.name): it.version for url in names.SHORT_NAMES for it in snapshot.of(url).values()}

    deny = {"action": "deny", "callers": ["echo"], "services": ["caller"]}
    limited = {"caller": {"rate_limit": {"requests": 1}, "connections": {"max_inbound": 3}}}
    before = versions(state)
    after = versions(replace(state, policy=policy_of({"intentions": {"no": deny}, "services": limited})))
    assert {key for key in before if before[key] != after[key]} == {
        (names.ROUTE, names.INBOUND),
        (names.EXTENSION, names.CONNECTION_LIMIT),
    }


def test_a_share_of_traces_changes_routes_and_no_listener(state, specs):
    def listeners(percent):
        policy = policy_of({"mesh": {"telemetry": {"collector": "otel:4317", "sampling_percent": percent}}})
        snapshot = Reconciler().sidecar_snapshot(replace(state, policy=policy), specs["sidecar"])
        return {it.name: it.version for it in snapshot.of(names.LISTENER).values()}

    assert listeners(1) == listeners(50)
