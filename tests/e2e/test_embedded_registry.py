"""A mesh without Consul: the control plane keeps the registry itself."""

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import time

import pytest

MESHCTL = (sys.executable, "-m", "services.meshctl.main")
TOOLS = (sys.executable, "-m", "services.utilities")


@pytest.fixture(scope="module")
def embedded(start_mesh, load_mesh_file):
    with start_mesh(load_mesh_file, MESH_REGISTRY="embedded") as mesh:
        yield mesh


async def wait_for(what, *, timeout=30.0):
    async with asyncio.timeout(timeout):
        while not await asyncio.to_thread(what):
            await asyncio.sleep(0.05)


def healthy(mesh, name):
    (found,) = [service for service in _status(mesh)["services"] if service["name"] == name]
    return found["healthy"]


def _status(mesh):
    return json.loads(mesh.meshctl("status", "--output", "json").stdout)


def test_status_and_doctor_say_which_registry_it_is(embedded):
    status = embedded.json("status")
    assert status["registry"]["kind"] == "embedded"
    assert status["registry"]["address"] == embedded.env["MESH_CONTROL_BIND"]
    assert not {"consul", "ui"} & status["endpoints"].keys()
    assert status["endpoints"]["registry"] == embedded.env["MESH_CONTROL_BIND"]
    assert not any("consul" in command for command in embedded.processes().values())
    assert stat.S_IMODE((embedded.state_dir / "registry.db").stat().st_mode) == 0o600
    findings = embedded.json("doctor")
    assert all(finding["is_well"] for finding in findings)


def test_a_member_joins_by_a_token_without_being_told_of_the_registry(embedded, short_dir, lines_of):
    token_file = short_dir / "token"
    token_file.write_text(embedded.json("token", "create", "far-tools", "--kind", "mcp")["token"])
    elsewhere = {
        "MESH_STATE_DIR": str(short_dir),
        "MESH_CONTROL_ADVERTISE": embedded.env["MESH_CONTROL_BIND"],
        "MESH_ENROLMENT_ADVERTISE": embedded.env["MESH_ENROLMENT_BIND"],
        "MESH_SIDECAR_BIND": "127.0.0.2",
    }
    env = {name: value for name, value in embedded.env.items() if name != "MESH_REGISTRY"} | elsewhere
    command = [*MESHCTL, "run", "mcp", "far-tools", "--token-file", str(token_file), "--", *TOOLS]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert "far-tools is in the mesh at 127.0.0.2:" in lines_of(process).read_until("is in the mesh", 60)
        called = embedded.meshctl("call", "far-tools", "hash_text", "text=abc")
        assert json.loads(called.stdout)["algorithm"] == "sha256"
        refused = embedded.meshctl("forget", "far-tools")
        assert refused.returncode == 1
        assert "has 1 instances" in refused.stderr
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert embedded.meshctl("forget", "far-tools").returncode == 0


async def test_kill_of_the_control_plane_fails_no_call_and_loses_no_instance(embedded, new_load):
    load = new_load(embedded.outbound("caller-1"))
    async with load.running():
        await load.calls(100)
        old = embedded.pid_of("services.control_plane")
        embedded.kill(old)
        await load.calls(100)
        await wait_for(lambda: _is_replaced(embedded, old))
        await wait_for(embedded.is_ready)
        await load.calls(100)
    assert load.failed == []
    assert load.answered_since(0) == {"echo-1", "echo-2"}


def _is_replaced(mesh, pid):
    found = [other for other, command in mesh.processes().items() if "services.control_plane" in command]
    return bool(found) and pid not in found


async def test_an_instance_that_hangs_is_unhealthy_within_seconds_and_comes_back(embedded):
    await wait_for(lambda: healthy(embedded, "echo") == 2)
    pid = embedded.pid_of("run/echo-2/bootstrap.json")
    os.kill(pid, signal.SIGSTOP)
    try:
        stopped = time.monotonic()
        await wait_for(lambda: healthy(embedded, "echo") == 1)
        assert time.monotonic() - stopped < 10
    finally:
        os.kill(pid, signal.SIGCONT)
    await wait_for(lambda: healthy(embedded, "echo") == 2)
