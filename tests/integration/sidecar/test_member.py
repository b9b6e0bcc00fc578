"""Members of a mesh: real Envoys, real processes, a control plane in this process."""

import asyncio
import json
import os
import signal
import socket
import ssl
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh.model import Address

SERVING = health_pb2.HealthCheckResponse.SERVING


def quick(**changes: Any) -> dict[str, Any]:
    return {"deregister_wait": 0.05, **changes}


async def say(echo: Any, milliseconds: int = 0) -> Any:
    return json.loads(await echo.say(b"%d" % milliseconds, timeout=10))


async def test_a_member_is_called_through_two_sidecars_and_sees_who_calls(control_plane: Any, open_echo: Any) -> None:
    control_plane.declare("caller", "echo")
    async with control_plane.open("echo"), control_plane.open("caller", command=None) as caller:
        await control_plane.wait_healthy("echo")
        async with open_echo(caller.outbound, "echo.mesh") as echo:
            forged = (("x-forwarded-client-cert", "URI=spiffe://test.local/ns/default/svc/other"),)
            answer = json.loads(await echo.say(b"0", timeout=5, metadata=forged))
    seen = answer["metadata"]["x-forwarded-client-cert"]
    assert seen.endswith(";URI=spiffe://test.local/ns/default/svc/caller")
    assert "svc/other" not in seen


async def test_call_context_names_the_caller(control_plane: Any, open_echo: Any, caller_command: Any) -> None:
    """A server made with mesh.rpc tells who calls by call_context()."""
    control_plane.declare("caller", "told")
    async with (
        control_plane.open("told", command=caller_command, **quick()),
        control_plane.open("caller", command=None, **quick()) as caller,
    ):
        await control_plane.wait_healthy("told")
        async with open_echo(caller.outbound, "told.mesh") as echo:
            assert await echo.say(b"", timeout=5) == b"spiffe://test.local/ns/default/svc/caller"


async def test_members_know_their_place_by_variables(control_plane: Any, open_echo: Any, env_command: Any) -> None:
    env = {"MESH_SERVICE": "forged", "OWN": "kept"}
    async with control_plane.open("echo", command=env_command, env=env, instance="echo-1", **quick()) as member:
        async with open_echo(f"unix:{member.spec.app_socket}") as echo:
            seen = await say(echo)
    run = control_plane.state_dir / "run" / "echo-1"
    assert (
        seen.items()
        >= {
            "MESH_SERVICE": "echo",
            "MESH_INSTANCE": "echo-1",
            "MESH_LISTEN": f"unix:{run}/app.sock",
            "MESH_OUTBOUND": f"unix:{run}/out.sock",
            "MESH_TRUST_DOMAIN": "test.local",
            "MESH_NAMESPACE": "default",
            "MESH_JOIN_TOKEN": "",
            "OWN": "kept",
        }.items()
    )


async def test_an_undeclared_upstream_is_answered_with_what_is_wrong(control_plane: Any, open_echo: Any) -> None:
    control_plane.declare("caller")
    async with control_plane.open("echo", **quick()), control_plane.open("caller", command=None, **quick()) as caller:
        await control_plane.wait_healthy("echo")
        async with open_echo(caller.outbound, "echo.mesh") as echo:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await say(echo)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
            assert "caller has not declared the called service" in (caught.value.details() or "")
            # Declared now: the same channel gets through.
            control_plane.declare("caller", "echo")
            async with asyncio.timeout(5):
                while True:
                    try:
                        await say(echo)
                        break
                    except grpc.aio.AioRpcError:
                        await asyncio.sleep(0.01)


async def test_envoy_that_is_killed_comes_back_on_the_same_port(
    control_plane: Any, open_echo: Any, eventually: Any
) -> None:
    control_plane.declare("caller", "echo")
    async with control_plane.open("echo", **quick()) as member, control_plane.open("caller", command=None) as caller:
        await control_plane.wait_healthy("echo")
        async with open_echo(caller.outbound, "echo.mesh") as echo:
            before = await say(echo)
            for killed in (member, caller):
                old = killed.envoy_pid
                os.kill(old, signal.SIGKILL)
                await eventually(lambda member=killed, pid=old: member.envoy_pid != pid)
                async with asyncio.timeout(10):
                    while True:
                        try:
                            after = await say(echo)
                            break
                        except grpc.aio.AioRpcError as err:
                            assert err.code() is grpc.StatusCode.UNAVAILABLE
                            await asyncio.sleep(0.01)
                assert after["pid"] == before["pid"]
            assert control_plane.store.current.services["echo"][0].port == member.spec.inbound.port


async def test_application_that_is_killed_comes_back(control_plane: Any, open_echo: Any) -> None:
    control_plane.declare("caller", "echo")
    async with control_plane.open("echo", **quick()) as member, control_plane.open("caller", command=None) as caller:
        await control_plane.wait_healthy("echo")
        async with open_echo(caller.outbound, "echo.mesh") as echo:
            before = await say(echo)
            os.kill(member.app_pid, signal.SIGKILL)
            async with asyncio.timeout(10):
                while True:
                    try:
                        after = await say(echo)
                        break
                    except grpc.aio.AioRpcError as err:
                        assert err.code() is grpc.StatusCode.UNAVAILABLE
                        await asyncio.sleep(0.01)
            assert after["pid"] == member.app_pid != before["pid"]


async def test_an_application_that_cannot_bind_over_its_old_socket_comes_back(
    control_plane: Any, open_echo: Any, stubborn_command: Any, eventually: Any
) -> None:
    async with control_plane.open("echo", command=stubborn_command, **quick()) as member:
        async with open_echo(f"unix:{member.spec.app_socket}") as echo:
            old = member.app_pid
            os.kill(old, signal.SIGKILL)
            await eventually(lambda: member.app_pid != old)
            async with asyncio.timeout(10):
                while True:
                    try:
                        assert (await say(echo))["pid"] == member.app_pid
                        break
                    except grpc.aio.AioRpcError:
                        await asyncio.sleep(0.01)


async def test_a_member_leaves_without_a_failed_call_and_without_a_trace(
    control_plane: Any, open_echo: Any, hold: Any, processes_of: Any
) -> None:
    control_plane.declare("caller", "echo")
    staying = hold(control_plane.open("echo", **quick()))
    leaving = hold(control_plane.open("echo", deregister_wait=0.3))
    gone, stays = (await leaving.member()), (await staying.member())
    async with control_plane.open("caller", command=None) as caller:
        await control_plane.wait_healthy("echo", 2)
        async with open_echo(caller.outbound, "echo.mesh") as echo:
            async with asyncio.TaskGroup() as group:
                # Both instances have something under way when one of them goes.
                while {await _instance(echo) for _ in range(8)} != {gone.instance.id, stays.instance.id}:
                    pass
                streams = [group.create_task(_count(echo, 60)) for _ in range(6)]
                slow = [group.create_task(say(echo, 1000)) for _ in range(6)]
                await _instance(echo)
                leaving.leave()
                instances = []
                while not leaving.is_gone:
                    instances.append((await say(echo, 5))["instance"])
        assert [len(task.result()) for task in streams] == [60] * 6
        assert {gone.instance.id, stays.instance.id} == {task.result()["instance"] for task in slow}
        assert instances[-1] == stays.instance.id
    assert control_plane.registry.events.count(f"deregister {gone.instance.id}") == 1
    run = control_plane.state_dir / "run" / gone.instance.id
    assert not run.exists()
    assert processes_of(run) == []
    _, writer = await asyncio.open_connection("127.0.0.1", stays.spec.inbound.port)
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", gone.spec.inbound.port)


async def _instance(echo: Any) -> str:
    return str((await say(echo))["instance"])


async def _count(echo: Any, numbers: int) -> list[bytes]:
    return [number async for number in echo.count(b"%d" % numbers)]


async def test_a_cancelled_member_is_deregistered_and_leaves_no_process(control_plane: Any, processes_of: Any) -> None:
    opened = asyncio.Event()

    async def hold_it() -> None:
        async with control_plane.open("echo", instance="echo-1", **quick()):
            opened.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hold_it())
    async with asyncio.timeout(20):
        await opened.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert control_plane.registry.events == ["register echo-1", "deregister echo-1"]
    run = control_plane.state_dir / "run" / "echo-1"
    assert processes_of(run) == []
    assert sorted(path.name for path in run.iterdir() if path.is_socket()) == []


async def test_a_rotation_of_certificates_drops_no_call_and_no_stream(control_plane: Any, open_echo: Any) -> None:
    control_plane.declare("caller", "echo")
    async with control_plane.open("echo", **quick()) as member, control_plane.open("caller", command=None) as caller:
        await control_plane.wait_healthy("echo")
        async with open_echo(caller.outbound, "echo.mesh") as echo, asyncio.TaskGroup() as group:
            stream = group.create_task(_count(echo, 50))
            while not stream.done():
                for renewed in (member, caller):
                    await renewed.identity.renew_now()
                await asyncio.gather(*(say(echo, 1) for _ in range(5)))
            assert len(stream.result()) == 50
        # A new connection uses the newest certificate.
        shown = await asyncio.to_thread(_shown_certificate, member.spec.inbound, Path(caller.spec.secrets_dir))
        assert shown == ssl.PEM_cert_to_DER_cert(member.identity.current.certificate_chain)


def _shown_certificate(address: Address, files: Path) -> bytes:
    context = ssl.create_default_context(cafile=files / "bundle.pem")
    context.load_cert_chain(files / "svid.pem", files / "key.pem")
    # The certificate names a SPIFFE id and no host.
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((address.host, address.port), timeout=5) as raw,
        context.wrap_socket(raw) as connection,
    ):
        return connection.getpeercert(binary_form=True) or b""


async def test_a_control_plane_that_is_gone_stops_no_call(start_control_plane: Any, open_echo: Any, hold: Any) -> None:
    async with start_control_plane() as control_plane:
        control_plane.declare("caller", "echo")
        member, caller = hold(control_plane.open("echo", **quick())), hold(control_plane.open("caller", command=None))
        outbound = (await caller.member()).outbound
        await member.member()
        await control_plane.wait_healthy("echo")
    async with open_echo(outbound, "echo.mesh") as echo:
        for _ in range(20):
            await say(echo)


async def test_exposed_health_answers_checks_in_plain_text_and_nothing_else(control_plane: Any, open_echo: Any) -> None:
    async with control_plane.open("echo", exposed_health=True, **quick()) as member:
        await control_plane.wait_healthy("echo")
        check = control_plane.registry.checks[member.instance.id]
        assert check.target == member.spec.exposed_health
        assert not check.use_tls
        async with open_echo(str(member.spec.exposed_health)) as echo:
            health: Any = health_pb2_grpc.HealthStub(echo.channel)
            assert (await health.Check(health_pb2.HealthCheckRequest(), timeout=5)).status == SERVING
            for refused in (
                say(echo),
                _first(health.Watch(health_pb2.HealthCheckRequest(), timeout=5)),
                echo.channel.unary_unary("/grpc.health.v1.Health/Check/x")(b"", timeout=5),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await refused
                assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def _first(stream: Any) -> Any:
    return await anext(aiter(stream))


async def test_a_server_of_somebody_else_joins_by_its_socket(
    control_plane: Any, open_echo: Any, echo_command: Any, short_dir: Path
) -> None:
    listen = f"unix:{short_dir}/own.sock"
    env = {**os.environ, "MESH_LISTEN": listen, "MESH_INSTANCE": "own"}
    process = await asyncio.create_subprocess_exec(*echo_command, env=env)
    control_plane.declare("caller", "echo")
    try:
        async with (
            control_plane.open("echo", command=None, app_listen=listen, **quick()) as member,
            control_plane.open("caller", command=None) as caller,
        ):
            assert member.app_pid is None
            await control_plane.wait_healthy("echo")
            async with open_echo(caller.outbound, "echo.mesh") as echo:
                assert (await say(echo))["instance"] == "own"
        assert process.returncode is None
    finally:
        process.terminate()
        await process.wait()
