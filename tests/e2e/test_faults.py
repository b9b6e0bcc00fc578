"""Steady load through two sidecars while parts of the mesh die: only what was in flight on the dead may fail."""

import asyncio
import contextlib
import dataclasses
import json
import subprocess
import sys
import time

import grpc
import pytest

# From SIGKILL to the moment when the peers' kernels have reset the connections of the dead.
KILL_TAKES = 0.25


@pytest.fixture
def load(load_mesh, new_load):
    return new_load(load_mesh.outbound("caller-1"))


async def wait_for(what, *, timeout=60.0):
    async with asyncio.timeout(timeout):
        while not await asyncio.to_thread(what):
            await asyncio.sleep(0.05)


async def test_death_of_control_plane_consul_and_one_instance_fails_only_what_was_in_flight(load_mesh, load):
    async with load.running():
        await load.calls(200)
        assert load.answered_since(0) == {"echo-1", "echo-2"}

        for round_number in range(2):
            old = load_mesh.pid_of("services.control_plane")
            load_mesh.kill(old)
            await load.calls(100)
            await wait_for(lambda pid=old: _is_replaced(load_mesh, "services.control_plane", pid))
            await wait_for(load_mesh.is_ready)
            await load.calls(100)
            assert load.failed == [], f"control plane killed, round {round_number}"

        old = load_mesh.pid_of("consul agent")
        load_mesh.kill(old)
        await load.calls(200)
        await wait_for(lambda: _is_replaced(load_mesh, "consul agent", old))
        await wait_for(load_mesh.is_ready)
        await load.calls(200)
        assert load.failed == [], "Consul killed"

        pids = [load_mesh.pid_of("MESH_INSTANCE=echo-2", "echo.py"), load_mesh.pid_of("run/echo-2/bootstrap.json")]
        killed = time.monotonic()
        for pid in pids:
            load_mesh.kill(pid)
        await load.calls(200)
        await wait_for(load_mesh.is_ready)
        back = time.monotonic()
        await wait_for(lambda: "echo-2" in load.answered_since(back))
    assert len(load.failed) <= load.workers
    assert all(began < killed + KILL_TAKES for began, _ in load.failed), load.failed


async def test_rotation_of_certificates_and_of_the_root_fails_no_call_and_no_stream(
    start_mesh, load_mesh_file, new_load
):
    # Renewal at half of the life: each sidecar, the control plane and Consul change theirs again and again.
    with start_mesh(load_mesh_file, MESH_CERTIFICATE_LIFETIME="10") as mesh:
        load = new_load(mesh.outbound("caller-1"))
        (old,) = mesh.json("certs", "root")["roots"]
        serials = _serials(mesh)
        async with load.running(), _stream(mesh) as stream:
            assert mesh.json("certs", "rotate-root")["stage"] == "distributing"
            await wait_for(lambda: _stage(mesh) == "switching")
            assert [each["signs"] for each in mesh.json("certs", "root")["roots"]] == [True, False]
            await wait_for(lambda: _stage(mesh) == "steady")
            await load.calls(100)
            assert not stream.done()
        assert load.failed == []
        (new,) = mesh.json("certs", "root")["roots"]
        assert new["fingerprint"] != old["fingerprint"]
        assert not serials & _serials(mesh)
        await wait_for(mesh.is_ready)


async def test_a_revoked_identity_is_shut_out_on_its_open_connection_and_let_in_again(load_mesh, load):
    other = load_mesh.outbound("gateway-1")
    async with load.running():
        await load.calls(50)
        assert load_mesh.meshctl("certs", "revoke", "caller").returncode == 0
        await wait_for(lambda: len(load.failed) > 10)
        assert {error.partition(" ")[0] for _, error in load.failed} == {"PERMISSION_DENIED"}
        assert load_mesh.meshctl("token", "create", "caller").returncode == 1
        async with grpc.aio.insecure_channel(other, [("grpc.default_authority", "echo.mesh")]) as channel:
            assert await channel.unary_unary("/echo.v1.Echo/Say")(b"0", timeout=10)
        assert load_mesh.meshctl("certs", "restore", "caller").returncode == 0
        await load.calls(50)


def _stage(mesh):
    done = mesh.meshctl("certs", "root", "--output", "json")
    return json.loads(done.stdout)["stage"] if done.returncode == 0 else ""


async def test_one_of_two_control_planes_dies_and_the_other_takes_its_sidecars_and_one_leads(
    start_mesh, load_mesh_file, new_load, mesh_environment, short_dir
):
    second = mesh_environment(short_dir)
    first_bind = mesh_environment(short_dir)["MESH_CONTROL_BIND"]
    second_bind = second["MESH_CONTROL_BIND"]
    both = f"{first_bind},{second_bind}"
    with start_mesh(load_mesh_file, MESH_CONTROL_BIND=first_bind, MESH_CONTROL_PLANES=both) as mesh:
        env = second | {
            "MESH_CONTROL_PLANES": both,
            "MESH_CA_DIR": str(mesh.state_dir / "ca"),
            "CONSUL_HTTP_ADDR": mesh.env["MESH_CONSUL_BIND"],
        }
        other = dataclasses.replace(mesh, env=env, state_dir=short_dir)
        load = new_load(mesh.outbound("caller-1"))
        with _control_plane(env, short_dir):
            await wait_for(lambda: _control_planes(other) == {first_bind: True, second_bind: False})
            other.meshctl("token", "create", "newcomer", "--kind", "service")
            async with load.running():
                await load.calls(100)
                mesh.kill(mesh.pid_of("services.control_plane", f"MESH_CONTROL_BIND={first_bind}"))
                await wait_for(lambda: other.json("proxies") != [])
                # Consul frees the lock of the dead within 20 s; its successor may be the quicker one.
                await wait_for(lambda: sum(_control_planes(other).values()) == 1)
                await wait_for(mesh.is_ready)
                await load.calls(100)
            await wait_for(lambda: "newcomer" in (mesh.state_dir / "declarations.json").read_text())
        assert load.failed == []
        await wait_for(mesh.is_ready)


@contextlib.contextmanager
def _control_plane(env, state_dir):
    with (state_dir / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.control_plane"], env=env, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield
        process.terminate()
        assert process.wait(timeout=20) == 0
    except BaseException:
        print((state_dir / "log").read_text())
        raise
    finally:
        process.kill()
        process.wait(timeout=10)


def _control_planes(mesh):
    done = mesh.meshctl("status", "--output", "json")
    facts = json.loads(done.stdout) if done.stdout else {"control_planes": []}
    return {each["address"]: each["leads"] for each in facts["control_planes"]}


@contextlib.asynccontextmanager
async def _stream(mesh):
    """A stream that began before the first rotation and goes on until the block ends."""
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


def _serials(mesh):
    return {certificate["serial"] for certificate in mesh.json("certs")}


def _is_replaced(mesh, sign, old):
    return sum(sign in command for pid, command in mesh.processes().items() if pid != old) == 1
