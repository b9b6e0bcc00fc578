"""Everything that may change in a mesh changes under steady load, with 1,000 routes loaded: not one request fails.

Certificates and roots change in test_faults.py, for which they have short lives.
"""

import asyncio
import contextlib
import json
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
import yaml

HERE = Path(__file__).parent
ECHO = [sys.executable, str(HERE / "servers" / "echo.py")]
MESHCTL = [sys.executable, "-m", "services.meshctl.main"]
ROUTES = 1000


def document(*, timeout="30s", spare=0, authority="echo.test"):
    """A document with ROUTES routes on echo, the last of which is for what the load calls."""
    idle = [
        {"name": f"r{number}", "match": {"grpc": {"service": f"none.S{number}"}}, "timeout": timeout}
        for number in range(ROUTES - 1)
    ]
    used = {"name": "used", "match": {"grpc": {"service": "echo.v1.Echo", "method": "Say"}}, "timeout": timeout}
    split = {"split": {"echo": 100 - spare, "spare": spare}} if spare is not None else {}
    return yaml.safe_dump({"services": {"echo": {"authorities": [authority], "routes": [*idle, used | split]}}})


@pytest.fixture(scope="module")
def mesh_file(tmp_path_factory):
    services = {
        "echo": {"kind": "service", "command": ["python", "tests/e2e/servers/echo.py"], "instances": 2},
        "spare": {"kind": "service", "command": ["python", "tests/e2e/servers/echo.py"]},
        "caller": {
            "kind": "service",
            "command": ["python", "tests/e2e/servers/echo.py"],
            "upstreams": ["echo", "spare", "newcomer"],
        },
        "newcomer": {"kind": "service", "command": ["python", "tests/e2e/servers/echo.py"], "instances": 0},
    }
    path = tmp_path_factory.mktemp("zero") / "mesh.yaml"
    path.write_text(yaml.safe_dump({"services": services}))
    return path


async def wait_for(what, *, timeout=90.0):
    async with asyncio.timeout(timeout):
        while not (found := await asyncio.to_thread(what)):
            await asyncio.sleep(0.05)
    return found


async def apply(mesh, folder, text):
    file = folder / "operator.yaml"
    file.write_text(text)
    done = await asyncio.to_thread(mesh.meshctl, "apply", str(file), "--yes", "--wait", "30")
    assert done.returncode == 0, done.stdout + done.stderr


@contextlib.asynccontextmanager
async def member(mesh, name):
    """One more instance of a service, from its start until it has left in order."""
    command = [*MESHCTL, "run", "service", name, "--", *ECHO]
    process = subprocess.Popen(command, env=mesh.env, cwd=HERE.parents[1], stdout=subprocess.DEVNULL)
    try:
        yield process
        process.terminate()
        assert await asyncio.to_thread(process.wait, 40) == 0
    finally:
        process.kill()
        process.wait(timeout=10)


def healthy(mesh, name):
    done = mesh.meshctl("status", "--output", "json")
    services = json.loads(done.stdout)["services"] if done.stdout else []
    return sum(service["healthy"] for service in services if service["name"] == name)


@contextlib.asynccontextmanager
async def stream(mesh):
    """A stream that began before any change and goes on until the block ends."""
    options = [("grpc.default_authority", "echo.mesh")]
    async with grpc.aio.insecure_channel(mesh.outbound("caller-1"), options) as channel:

        async def read():
            numbers = [int(number) async for number in channel.unary_stream("/echo.v1.Echo/Count")(b"100000")]
            raise AssertionError(f"the stream ended after {len(numbers)} numbers")

        reading = asyncio.create_task(read())
        yield reading
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading


@pytest.mark.timeout(240)
async def test_no_change_fails_a_request(start_mesh, mesh_file, new_load, tmp_path):
    with start_mesh(mesh_file) as mesh:
        load = new_load(mesh.outbound("caller-1"))
        async with load.running(), stream(mesh) as reading:
            for timeout in ("30s", "10s"):
                await apply(mesh, tmp_path, document(timeout=timeout))
            for spare in (100, 0):
                await apply(mesh, tmp_path, document(spare=spare))
                await load.calls(50)
            await apply(mesh, tmp_path, document(spare=None, authority="other.test"))

            async with member(mesh, "echo"), member(mesh, "newcomer"):
                await wait_for(lambda: healthy(mesh, "echo") == 3 and healthy(mesh, "newcomer") == 1)
                await load.calls(100)
            await wait_for(lambda: healthy(mesh, "echo") == 2)

            mesh.kill(mesh.pid_of("services.control_plane"))
            await load.calls(100)
            await wait_for(mesh.is_ready)
            done = await asyncio.to_thread(mesh.meshctl, "rollback")
            assert done.returncode == 0, done.stderr
            await load.calls(100)
            assert not reading.done()
        assert load.failed == []
