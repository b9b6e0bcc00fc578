"""W3C trace context, in a process of its own: OpenTelemetry's provider is set once and for all."""

import json
import os
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parent / "servers" / "traced.py"


def test_client_and_server_spans_of_two_hops_share_one_trace(short_dir):
    env = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, PROGRAM, short_dir], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    spans = json.loads(done.stdout)
    assert len({span["trace"] for span in spans}) == 1
    found = sorted((span["name"].rpartition("/")[2], span["kind"]) for span in spans)
    assert found == [
        ("Answer", "CLIENT"),
        ("Answer", "SERVER"),
        ("Count", "CLIENT"),
        ("Count", "SERVER"),
        ("PassOn", "CLIENT"),
        ("PassOn", "SERVER"),
    ]
    assert sum(not span["parent"] for span in spans) == 1


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
