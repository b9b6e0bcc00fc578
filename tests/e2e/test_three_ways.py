"""One tool of an MCP server, called in the three ways that the README shows, through edge, sidecar and bridge."""

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest

ARGUMENTS = '{"rate": 0.1, "cash_flows": [-1000, 400, 400, 400]}'
# -1000 + 400/1.1 + 400/1.21 + 400/1.331
EXPECTED = -5.259203606311038

BUF = Path(sys.executable).with_name("buf")


def buf_curl(mesh, method, message, *headers, cwd):
    words = [BUF, "curl", "--http2-prior-knowledge", "--protocol", "grpc", "-d", json.dumps(message)]
    for header in headers:
        words += ["-H", header]
    # From elsewhere than the repository, whose own contracts buf would use instead of reflection.
    return subprocess.run(
        [*words, f"http://{mesh.gateway}/{method}"], cwd=cwd, capture_output=True, text=True, timeout=30
    )


def test_meshctl_a_typed_stub_and_buf_curl_get_the_same_answer(mesh, tmp_path):
    called = mesh.meshctl("call", "financial", "npv", ARGUMENTS)
    by_meshctl = json.loads(called.stdout)

    script = Path(__file__).parent / "servers" / "call_npv.py"
    by_stub = json.loads(
        subprocess.run(
            [sys.executable, script, mesh.gateway, ARGUMENTS], capture_output=True, text=True, timeout=30, check=True
        ).stdout
    )

    message = {"name": "npv", "arguments": base64.b64encode(ARGUMENTS.encode()).decode()}
    method = "agentmesh.mcp.v1.McpBridgeService/CallTool"
    done = buf_curl(mesh, method, message, "x-mesh-service: financial", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    by_buf = json.loads(base64.b64decode(json.loads(done.stdout)["result"]["structuredContent"]))

    assert by_meshctl == by_stub == by_buf
    assert by_meshctl["npv"] == pytest.approx(EXPECTED)


def test_buf_curl_without_a_service_name_is_told_how_to_give_one(mesh, tmp_path):
    done = buf_curl(mesh, "agentmesh.mcp.v1.McpBridgeService/ListTools", {}, cwd=tmp_path)
    assert done.returncode != 0
    assert "x-mesh-service" in done.stderr


@pytest.mark.parametrize(("name", "status"), [("", "SERVING"), ("financial", "SERVING"), ("von-neumann", "SERVING")])
def test_health_is_asked_at_the_edge_by_name(mesh, tmp_path, name, status):
    done = buf_curl(mesh, "grpc.health.v1.Health/Check", {"service": name}, cwd=tmp_path)
    assert json.loads(done.stdout) == {"status": status}


def test_health_of_an_unknown_service_is_not_found(mesh, tmp_path):
    done = buf_curl(mesh, "grpc.health.v1.Health/Check", {"service": "nobody"}, cwd=tmp_path)
    assert json.loads(done.stderr)["code"] == "not_found"
