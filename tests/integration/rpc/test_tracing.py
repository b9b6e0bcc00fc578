"""W3C trace context, in a process of its own: OpenTelemetry's provider is set once and for all."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "servers" / "traced.py"


@pytest.fixture(scope="module")
def recorded():
    """What traced.py has recorded: spans, metrics and log lines."""
    directory = tempfile.mkdtemp(prefix="am-", dir="/tmp")
    env = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    try:
        done = subprocess.run(
            [sys.executable, PROGRAM, directory], env=env, capture_output=True, text=True, timeout=60, check=False
        )
    finally:
        shutil.rmtree(directory)
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout), "lines": [json.loads(line) for line in done.stderr.splitlines()]}


def test_client_and_server_spans_of_two_hops_share_one_trace(recorded):
    spans = recorded["spans"]
    assert len({span["trace"] for span in spans}) == 1
    found = sorted((span["name"].rpartition("/")[2], span["kind"]) for span in spans)
    methods = ("Answer", "Count", "Fail", "PassOn")
    assert found == [(method, kind) for method in methods for kind in ("CLIENT", "SERVER")]
    assert sum(not span["parent"] for span in spans) == 1


def test_a_server_span_is_the_child_of_its_client_span_and_that_of_the_handler_that_calls(recorded):
    by_id = {span["span"]: span for span in recorded["spans"]}
    for span in recorded["spans"]:
        parent = by_id.get(span["parent"])
        method = span["name"].rpartition("/")[2]
        if span["kind"] == "SERVER":
            assert (parent["kind"], parent["name"].rpartition("/")[2]) == ("CLIENT", method)
        elif method != "PassOn":
            assert (parent["kind"], parent["name"].rpartition("/")[2]) == ("SERVER", "PassOn")


def test_a_failed_call_is_a_failed_span_of_its_caller(recorded):
    status = {(span["name"].rpartition("/")[2], span["kind"]): span["status"] for span in recorded["spans"]}
    assert status["Fail", "CLIENT"] == "ERROR"
    assert status["Answer", "CLIENT"] != "ERROR"


def test_log_lines_carry_the_span_in_which_they_were_written(recorded):
    [line] = [line for line in recorded["lines"] if line["event"] == "answering"]
    [span] = [span for span in recorded["spans"] if span["name"].endswith("Answer") and span["kind"] == "SERVER"]
    assert (line["trace_id"], line["span_id"]) == (span["trace"], span["span"])
    assert len({line["correlation_id"] for line in recorded["lines"] if "correlation_id" in line}) == 1


def test_calls_are_measured_by_method_and_code(recorded):
    durations = {
        (metric["rpc.service"], metric["rpc.method"], metric["rpc.grpc.status_code"]): metric["count"]
        for metric in recorded["metrics"]
        if metric["name"] == "rpc.server.duration"
    }
    assert durations == {
        ("test.v1.Near", "PassOn", 0): 1,
        ("test.v1.Far", "Count", 0): 1,
        ("test.v1.Far", "Answer", 0): 1,
        ("test.v1.Far", "Fail", 5): 1,
    }
    assert {metric["unit"] for metric in recorded["metrics"] if metric["name"] == "rpc.server.duration"} == {"ms"}
    assert "rpc.server.in_flight" in {metric["name"] for metric in recorded["metrics"]}


async def test_without_spans_the_trace_context_is_still_passed_on(serve, handlers):
    seen = []

    async def unary(request, context):
        seen.append(dict(context.invocation_metadata()).get("traceparent"))
        return b"" if request else await calls.unary(b"again")

    handlers.unary = unary
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with serve() as (_, calls):
        await calls.unary(b"", metadata=[("traceparent", parent)])
    assert seen == [parent, parent]
