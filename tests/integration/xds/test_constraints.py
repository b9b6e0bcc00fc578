"""What our reading of Envoy's rules says, and what Envoy itself says."""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from google.protobuf import json_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.rpc.envoy_descriptors import envoy_binary
from mesh.xds.constraints import check_constraints
from mesh.xds.descriptors import envoy_message, envoy_pool

HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
PGV = "Proto constraint validation failed"


def envoy_says(path, resources):
    """Envoy's words when it refuses static resources, "" when it takes them."""
    path.write_text(json.dumps({"static_resources": resources}))
    done = subprocess.run(
        [envoy_binary(), "--mode", "validate", "--config-path", path, "--disable-hot-restart", "--log-level", "error"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    return "" if done.returncode == 0 else done.stderr


def we_say(kind, literal):
    message = json_format.ParseDict(literal, envoy_message(f"envoy.{kind}")(), descriptor_pool=envoy_pool())
    return check_constraints(message)


def some(*values):
    return st.sampled_from(values)


check = {"timeout": "1s", "interval": "1s", "unhealthy_threshold": 1, "healthy_threshold": 1}
clusters = st.fixed_dictionaries(
    {"name": some("c", "c", "c", "")},
    optional={
        "connect_timeout": some("1s", "0s", "0.000000001s", "-1s"),
        "outlier_detection": st.fixed_dictionaries(
            {},
            optional={
                "interval": some("1s", "0s"),
                "max_ejection_percent": some(0, 100, 101),
                "enforcing_success_rate": some(100, 101),
            },
        ),
        "ring_hash_lb_config": st.fixed_dictionaries({"maximum_ring_size": some(1, 8_388_608, 8_388_609)}),
        "common_lb_config": st.fixed_dictionaries({"healthy_panic_threshold": some({"value": 0}, {"value": 100.1})}),
        "health_checks": st.fixed_dictionaries(
            {},
            optional={
                "timeout": some("1s", "0s"),
                "http_health_check": some({"path": "/"}, {"path": ""}, {"path": "/", "host": "a\nb"}),
            },
        ).map(lambda more: [{**check, **more}]),
        "max_requests_per_connection": some(0, 5),
        "per_connection_buffer_limit_bytes": some(1, 1 << 20),
        "lb_subset_config": st.fixed_dictionaries({"fallback_policy": some(0, 2, 9)}),
    },
)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(clusters)
def test_envoy_refuses_a_cluster_by_its_rules_if_we_do(tmp_path, cluster):
    ours = we_say("config.cluster.v3.Cluster", cluster)
    theirs = envoy_says(tmp_path / "envoy.json", {"clusters": [cluster]})
    assert bool(ours) == (PGV in theirs or "Invalid duration" in theirs), (ours, theirs)


def listener(host=None, manager=None, routes=None):
    default = {"name": "h", "domains": ["*"], "routes": routes or []}
    hcm = {
        "@type": f"type.googleapis.com/{HCM}",
        "stat_prefix": "s",
        "route_config": {"name": "r", "virtual_hosts": [host or default]},
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    return {
        "name": "l",
        "address": {"pipe": {"path": "/tmp/never.sock"}},
        "filter_chains": [{"filters": [{"name": "hcm", "typed_config": {**hcm, **(manager or {})}}]}],
    }


def reply(**more):
    return {"match": {"prefix": "/"}, "direct_response": {"status": 200}, **more}


LISTENERS = {
    "good": (listener(routes=[reply()]), True),
    "no prefix of statistics": (listener(manager={"stat_prefix": ""}), False),
    "too large headers": (listener(manager={"max_request_headers_kb": 8193}), False),
    "no domains": (listener(host={"name": "h", "domains": []}), False),
    "no name of the host": (listener(host={"name": "", "domains": ["*"]}), False),
    "no action": (listener(routes=[{"match": {"prefix": "/"}}]), False),
    "no match": (listener(routes=[{"direct_response": {"status": 200}}]), False),
    "no path": (listener(routes=[reply(match={})]), False),
    "a status that is none": (listener(routes=[reply(direct_response={"status": 600})]), False),
    "a header of two lines": (
        listener(routes=[reply(request_headers_to_add=[{"header": {"key": "a", "value": "b\r\nc"}}])]),
        False,
    ),
    "an empty header": (listener(routes=[reply(response_headers_to_remove=[""])]), False),
    "an action that is none": (
        listener(routes=[reply(request_headers_to_add=[{"header": {"key": "a", "value": "b"}, "append_action": 9}])]),
        False,
    ),
    "an empty regex": (listener(routes=[reply(match={"safe_regex": {"regex": ""}})]), False),
    "an empty suffix": (
        listener(routes=[reply(match={"prefix": "/", "headers": [{"name": "a", "string_match": {"suffix": ""}}]})]),
        False,
    ),
}


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("envoy")
    with ThreadPoolExecutor(2) as pool:
        said = {
            name: pool.submit(envoy_says, folder / f"{number}.json", {"listeners": [literal]})
            for number, (name, (literal, _)) in enumerate(LISTENERS.items())
        }
        return {name: each.result() for name, each in said.items()}


@pytest.mark.parametrize("name", LISTENERS)
def test_envoy_and_we_agree_on_a_listener(name, verdicts):
    literal, is_good = LISTENERS[name]
    ours = we_say("config.listener.v3.Listener", literal)
    assert (ours == []) == is_good, ours
    assert (verdicts[name] == "") == is_good, verdicts[name]
    assert is_good or PGV in verdicts[name]
