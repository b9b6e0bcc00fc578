"""Answers of subsets are timed, those of whole services are not, and callers see nothing of it."""

import json

import pytest
from google.protobuf.json_format import MessageToDict

from mesh.config.document import MeshDocument, Policy
from mesh.model import Declaration
from mesh.state import MeshState
from mesh.xds import names
from mesh.xds.descriptors import envoy_message, envoy_pool
from mesh.xds.reconcile import Reconciler
from mesh.xds.resources.timing import LOAD_HEADER, is_timed, milliseconds_of

SPLIT = {"services": {"echo": {"subsets": {"v1": {"version": "1"}}, "split": {"echo/v1": 100}}}}


@pytest.fixture
def built(specs):
    """The resources of the caller's sidecar under a document, as plain values by type and name."""

    def build(document):
        state = MeshState(
            "mesh.test",
            declarations={"caller": Declaration("caller", "agent", ("echo",))},
            policy=Policy(MeshDocument.model_validate(document)),
        )
        snapshot = Reconciler().sidecar_snapshot(state, specs["pure_client"])

        def plain(url, name):
            message = envoy_message(url.rpartition("/")[2]).FromString(snapshot.of(url)[name].body)
            return MessageToDict(message, preserving_proto_field_name=True, descriptor_pool=envoy_pool())

        return plain

    return build


def test_the_cluster_of_a_subset_times_its_answers(built):
    cluster = built(SPLIT)(names.CLUSTER, "v1.echo")
    assert cluster["lrs_report_endpoint_metrics"] == ["named_metrics.*"]
    (options,) = cluster["typed_extension_protocol_options"].values()
    timer, codec = options["http_filters"]
    assert LOAD_HEADER in json.dumps(timer)
    assert "UpstreamCodec" in codec["typed_config"]["@type"]


def test_the_cluster_of_a_whole_service_costs_nothing(built):
    cluster = built(SPLIT)(names.CLUSTER, "echo")
    assert "lrs_report_endpoint_metrics" not in cluster
    assert "http_filters" not in json.dumps(cluster)


def test_callers_see_nothing_of_the_timing(built):
    hosts = {it["name"]: it for it in built(SPLIT)(names.ROUTE, names.OUTBOUND)["virtual_hosts"]}
    assert hosts["echo"]["routes"][-1]["response_headers_to_remove"] == [LOAD_HEADER]
    plain = json.dumps(built({})(names.ROUTE, names.OUTBOUND))
    assert LOAD_HEADER not in plain


@pytest.mark.parametrize(("cluster", "timed"), [("v2.echo", True), ("echo", False), ("@fallback.echo", False)])
def test_only_subsets_are_timed(cluster, timed):
    assert is_timed(cluster) is timed


@pytest.mark.parametrize(
    ("metric", "took"),
    [
        ("named_metrics.d17", 17),
        ("named_metrics.d0", 0),
        ("named_metrics.d-", None),
        ("named_metrics.d12345678901", None),
        ("named_metrics.spoof", None),
        ("cpu_utilization", None),
    ],
)
def test_a_metric_of_the_timer_stands_for_milliseconds(metric, took):
    assert milliseconds_of(metric) == took
