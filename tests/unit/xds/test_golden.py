"""What each kind of proxy gets, byte by byte, so that no change of it goes unseen.

After a wanted change: MESH_UPDATE_GOLDEN=1 pytest tests/unit/xds/test_golden.py, and read the diff.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToDict

from mesh.errors import Internal, PermissionDenied
from mesh.model import Address, Declaration
from mesh.xds import names
from mesh.xds.constraints import check_resource
from mesh.xds.descriptors import envoy_message, envoy_pool
from mesh.xds.reconcile import Reconciler
from mesh.xds.snapshot import build_snapshot

GOLDEN = Path(__file__).parent / "golden"
KINDS = ["sidecar", "gateway", "exposed_health", "pure_client", "grpc_client"]


def snapshot_of(kind, state, specs):
    if kind == "grpc_client":
        return Reconciler().client_snapshot(state, "caller")
    return Reconciler().sidecar_snapshot(state, specs[kind])


def to_json(snapshot):
    value = {}
    for url, short in names.SHORT_NAMES.items():
        value[short] = {}
        for name, resource in sorted(snapshot.of(url).items()):
            message = envoy_message(url.removeprefix("type.googleapis.com/")).FromString(resource.body)
            value[short][name] = MessageToDict(message, preserving_proto_field_name=True, descriptor_pool=envoy_pool())
    # The contracts themselves are long, and no matter of the builders.
    text = json.dumps(value, indent=1, sort_keys=True)
    return re.sub(r'"proto_descriptor_bin": "[^"]+"', '"proto_descriptor_bin": "..."', text) + "\n"


@pytest.mark.parametrize("kind", KINDS)
def test_a_proxy_gets_what_the_golden_file_says(kind, state, specs):
    found = to_json(snapshot_of(kind, state, specs))
    path = GOLDEN / f"{kind}.json"
    if os.environ.get("MESH_UPDATE_GOLDEN"):
        path.write_text(found)
    assert found == path.read_text(), "If this is wanted: MESH_UPDATE_GOLDEN=1 pytest tests/unit/xds/test_golden.py"


@pytest.mark.parametrize("kind", ["sidecar", "gateway", "grpc_client"])
def test_a_document_with_every_feature_makes_what_the_golden_file_says(kind, every_feature, specs):
    found = to_json(snapshot_of(kind, every_feature, specs))
    path = GOLDEN / f"every_feature_{kind}.json"
    if os.environ.get("MESH_UPDATE_GOLDEN"):
        path.write_text(found)
    assert found == path.read_text(), "If this is wanted: MESH_UPDATE_GOLDEN=1 pytest tests/unit/xds/test_golden.py"


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_a_document_with_every_feature_breaks_a_rule_of_envoys(kind, every_feature, specs):
    snapshot = snapshot_of(kind, every_feature, specs)
    resources = [resource for url in names.SHORT_NAMES for resource in snapshot.of(url).values()]
    assert {it.name: check_resource(it) for it in resources if check_resource(it)} == {}


@pytest.mark.parametrize("kind", KINDS)
def test_versions_are_the_same_for_the_same_content(kind, state, specs):
    turned = replace(state, services=dict(reversed(state.services.items())))
    versions = [
        [(resource.name, resource.version) for resource in snapshot_of(kind, found, specs).of(url).values()]
        for found in (state, turned)
        for url in names.SHORT_NAMES
    ]
    assert versions[: len(versions) // 2] == versions[len(versions) // 2 :]


def test_versions_survive_a_restart():
    """Maps come out in another order in another process, unless they are serialized with care."""
    program = (
        "from mesh.config.document import Intention\n"
        "from mesh.model import Address, ProxySpec, SpiffeId\n"
        "from mesh.xds.resources.clusters import build_upstream_cluster\n"
        "from mesh.xds.resources.inbound import InboundRules, build_inbound_routes\n"
        "from mesh.xds.resources.listeners import build_inbound\n"
        "identity = SpiffeId('mesh.test', 'default', 'echo')\n"
        "spec = ProxySpec('echo', 'echo-1', '/o', '/s', inbound=Address('127.0.0.1', 1), app_socket='/a')\n"
        "denied = tuple(\n"
        "    (f'i{n}', Intention(action='deny', callers=('a',), services=('echo',))) for n in range(9)\n"
        ")\n"
        "rules = InboundRules(identity, intentions=denied, is_default_deny=True)\n"
        "print(build_upstream_cluster('echo', identity, '/s').version)\n"
        "print(build_inbound(spec, identity).version, build_inbound_routes(rules).version)\n"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1


def test_one_instance_more_changes_one_resource(state, specs):
    before = snapshot_of("sidecar", state, specs)
    (first, second), financial = state.services["echo"], state.services["financial"]
    changed = replace(state, services={"echo": (first, replace(second, is_healthy=True)), "financial": financial})
    after = snapshot_of("sidecar", changed, specs)
    different = [
        (url, name)
        for url in names.SHORT_NAMES
        for name in before.of(url)
        if before.of(url)[name].version != after.of(url)[name].version
    ]
    assert different == [(names.ENDPOINT, "echo")]


def test_a_service_may_have_any_name_and_meets_no_name_of_ours(state, specs):
    """A service called app, inbound or edge must not stand in for what the sidecar itself is made of."""
    taken = [names.INBOUND, names.OUTBOUND, names.EDGE, names.EXPOSED_HEALTH, "app"]
    declared = {name: Declaration(name, "service") for name in taken}
    caller = Declaration("caller", "agent", tuple(taken))
    found = Reconciler().sidecar_snapshot(replace(state, declarations={**declared, "caller": caller}), specs["sidecar"])
    assert set(taken) <= set(found.of(names.CLUSTER))
    assert len(found.of(names.CLUSTER)) == len(taken) + 1


def test_only_a_gateway_gets_an_edge(state, specs):
    with pytest.raises(PermissionDenied):
        Reconciler().sidecar_snapshot(state, replace(specs["sidecar"], edge=Address("127.0.0.1", 1)))


def test_a_snapshot_that_leads_nowhere_is_not_built(state, specs):
    found = snapshot_of("sidecar", state, specs)
    clusters, endpoints = found.of(names.CLUSTER), found.of(names.ENDPOINT)
    with pytest.raises(Internal):
        build_snapshot(*clusters.values(), endpoint_clusters=frozenset({"echo"}))
    with pytest.raises(Internal):
        build_snapshot(*endpoints.values(), endpoint_clusters=frozenset({"echo"}))
