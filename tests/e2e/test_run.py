"""`meshctl run`: each kind of server joins the running mesh, can be called at once, and leaves no trace."""

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from benchmarks.ports import free_ports, wait_for_server

MESHCTL = (sys.executable, "-m", "services.meshctl.main")
SERVERS = Path(__file__).parent / "servers"


@pytest.fixture
def joined(mesh, lines_of):
    """Run a server in the mesh until the block ends; yields what it said when it had joined."""

    @contextlib.contextmanager
    def joined(kind, name, *words):
        running = subprocess.Popen(
            [*MESHCTL, "run", kind, name, *words],
            env=mesh.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            said = lines_of(running).read_until("is in the mesh", 60)
            assert f"{name} is in the mesh at 127.0.0.1:" in said
            yield said
        finally:
            running.send_signal(signal.SIGTERM)
            assert running.wait(60) == 0
        mesh.wait_for(lambda: name not in mesh.meshctl("status").stdout)
        assert not any(name in command for command in mesh.processes().values())
        assert not list((mesh.state_dir / "run").glob(f"{name}-*"))

    return joined


def test_an_mcp_server_on_stdio(mesh, joined):
    with joined("mcp", "more-tools", "--", sys.executable, "-m", "services.utilities") as said:
        assert "convert_units" in said
        called = mesh.meshctl("call", "more-tools", "convert_units", "value=3", "from_unit=mile", "to_unit=km")
        assert json.loads(called.stdout)["value"] == pytest.approx(4.828032)


@pytest.fixture
def http_server():
    (port,) = free_ports(1)
    process = subprocess.Popen([sys.executable, SERVERS / "http_tools.py", str(port)], stderr=subprocess.DEVNULL)
    try:
        wait_for_server(port)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.terminate()
        process.wait(30)


def test_an_mcp_server_over_http(mesh, joined, http_server):
    with joined("mcp", "http-tools", "--url", http_server) as said:
        assert "double" in said
        called = mesh.meshctl("call", "http-tools", "double", "value=21")
        assert json.loads(called.stdout) == {"result": 42}


def test_an_agent_of_a_dozen_lines(mesh, joined):
    with joined("agent", "greeter", "--", sys.executable, str(SERVERS / "greeter.py")) as said:
        assert "greet" in said
        called = mesh.meshctl("call", "greeter", "greet", "Ada", "Lovelace")
    assert called.stdout == "Hello, Ada Lovelace.\n", called.stderr


def test_a_plain_grpc_server_where_it_likes_to_listen(mesh, joined, short_dir):
    listen = f"unix:{short_dir}/own.sock"
    with joined("service", "plain", "--listen", listen, "--", sys.executable, str(SERVERS / "echo.py")):
        with grpc.insecure_channel(mesh.gateway) as channel:
            say = channel.unary_unary("/echo.v1.Echo/Say")
            answer = say(b"0", timeout=10, metadata=[("x-mesh-service", "plain")])
        assert answer.startswith(b"plain-")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("/no/such/program",), "/no/such/program"),
        ((sys.executable, "-c", "import sys; sys.exit('nothing to see')"), "nothing to see"),
    ],
)
def test_a_server_that_cannot_join_says_why(mesh, command, words):
    done = mesh.meshctl("run", "mcp", "broken", "--", *command, timeout=90)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not any("run/broken" in command for command in mesh.processes().values())
