"""Members on another machine, and a Consul that somebody else runs."""

import contextlib
import json
import signal
import subprocess
import sys

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.ports import free_ports, wait_for_server
from mesh.discovery import find_consul
from services.meshctl.infrastructure import TOOLS_DIR

MESHCTL = (sys.executable, "-m", "services.meshctl.main")
TOOLS = (sys.executable, "-m", "services.utilities")


@contextlib.contextmanager
def member_elsewhere(mesh, state_dir, token_file, lines_of):
    """`meshctl run` with nothing of the mesh's machine but a token and addresses; it has an address of its own."""
    env = mesh.env | {
        "MESH_STATE_DIR": str(state_dir),
        "MESH_CONTROL_ADVERTISE": mesh.env["MESH_CONTROL_BIND"],
        "MESH_ENROLMENT_ADVERTISE": mesh.env["MESH_ENROLMENT_BIND"],
        "MESH_SIDECAR_BIND": "127.0.0.2",
    }
    command = [*MESHCTL, "run", "mcp", "far-tools", "--token-file", str(token_file), "--", *TOOLS]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield lines_of(process).read_until("is in the mesh", 60), process
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in {0, 1}


def test_a_member_on_another_address_joins_by_a_token_and_is_called(mesh, short_dir, lines_of):
    token = mesh.json("token", "create", "far-tools", "--kind", "mcp")["token"]
    token_file = short_dir / "token"
    token_file.write_text(token)
    with member_elsewhere(mesh, short_dir, token_file, lines_of) as (said, _):
        assert "far-tools is in the mesh at 127.0.0.2:" in said
        called = mesh.meshctl("call", "far-tools", "hash_text", "text=abc")
        assert json.loads(called.stdout)["algorithm"] == "sha256"
    assert not (short_dir / "control.sock").exists()


def test_a_used_token_lets_nobody_else_in(mesh, short_dir, lines_of, tmp_path):
    token = mesh.json("token", "create", "far-tools", "--kind", "mcp")["token"]
    token_file = short_dir / "token"
    token_file.write_text(token)
    with member_elsewhere(mesh, short_dir / "one", token_file, lines_of) as (said, _):
        assert "is in the mesh" in said
    with member_elsewhere(mesh, short_dir / "two", token_file, lines_of) as (said, process):
        assert process.wait(60) == 1
    assert "is in the mesh" not in said
    assert "used" in said


@pytest.fixture
def consul():
    """A Consul in development mode, of which the mesh knows nothing but its address."""
    names = ("http", "server", "serf-lan", "serf-wan")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    options = [f"-{name}-port={port}" for name, port in ports.items()]
    command = [find_consul(TOOLS_DIR, progress=print), "agent", "-dev", "-dns-port=-1", "-grpc-port=-1", *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_server(ports["http"])
        yield f"127.0.0.1:{ports['http']}"
    finally:
        process.terminate()
        process.wait(30)


def test_a_given_consul_checks_health_in_the_clear_and_nothing_else_is_to_be_had_there(
    consul, start_mesh, load_mesh_file
):
    with start_mesh(load_mesh_file, CONSUL_HTTP_ADDR=consul) as mesh:
        status = mesh.json("status")
        assert status["registry"]["address"] == consul
        assert not any("consul agent" in command for command in mesh.processes().values())
        health_port = exposed_health_port(mesh, "echo-1")
        with grpc.insecure_channel(f"127.0.0.1:{health_port}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            assert (
                stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status == health_pb2.HealthCheckResponse.SERVING
            )
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary("/echo.v1.Echo/Say")(b"0", timeout=5)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def exposed_health_port(mesh, instance):
    bootstrap = json.loads((mesh.state_dir / "run" / instance / "bootstrap.json").read_text())
    return int(bootstrap["node"]["metadata"]["exposed_health"].rpartition(":")[2])
