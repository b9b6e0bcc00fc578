"""How members join: the addresses that they live at, and what cannot start, which says why and leaves nothing."""

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import AlreadyExists, FailedPrecondition, InvalidInput
from mesh.model import Address


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
            return True
    except OSError:
        return False


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6 loopback address")
async def test_a_member_lives_at_ipv6_addresses(start_control_plane: Any, open_echo: Any) -> None:
    async with start_control_plane(host="::1") as control_plane:
        control_plane.declare("caller", "echo")
        async with (
            control_plane.open("echo", bind=Address("::1", 0), advertise_host="::1", deregister_wait=0.05) as member,
            control_plane.open("caller", command=None) as caller,
        ):
            assert member.instance.address == "::1"
            await control_plane.wait_healthy("echo")
            async with open_echo(caller.outbound, "echo.mesh") as echo:
                assert json.loads(await echo.say(b"0", timeout=10))["instance"] == member.instance.id


async def test_names_of_hosts_are_resolved(control_plane: Any) -> None:
    """The control plane answers at one of the addresses of localhost; Envoy listens at addresses only."""
    opened = control_plane.open(
        "echo",
        control_planes=(Address("localhost", control_plane.control.port),),
        enrolment=Address("localhost", control_plane.enrolment.port),
        bind=Address("localhost", 0),
        advertise_host="localhost",
        deregister_wait=0.05,
    )
    async with opened as member:
        assert member.instance.address == member.spec.inbound.host == "127.0.0.1"
        await control_plane.wait_healthy("echo")


async def test_two_members_cannot_have_the_same_instance_or_port(control_plane: Any, processes_of: Any) -> None:
    async with control_plane.open("echo", instance="echo-1", deregister_wait=0.05) as member:
        with pytest.raises(AlreadyExists, match="echo-1 runs already"):
            async with control_plane.open("echo", instance="echo-1"):
                pass
        with pytest.raises(AlreadyExists, match=rf"is taken by envoy \(process {member.envoy_pid}\)") as caught:
            async with control_plane.open("other", bind=member.spec.inbound):
                pass
        assert caught.value.field == "MESH_SIDECAR_BIND"
        assert control_plane.registry.events == ["register echo-1"]


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"command": ("no-such-program-at-all",)}, InvalidInput, "no command 'no-such-program-at-all'"),
        ({"command": ("/dev/null",)}, InvalidInput, "'/dev/null' cannot be started: Permission denied"),
        ({"command": ()}, InvalidInput, "no command"),
        (
            {"command": ("sh", "-c", "echo the disk is full >&2; exit 3")},
            FailedPrecondition,
            "echo ended at once, with exit status 3. It said last: the disk is full",
        ),
        (
            {"command": ("sh", "-c", "echo warming up; exec sleep 60"), "start_timeout": 0.5},
            FailedPrecondition,
            "echo is not ready after 0.5 s. It said last: warming up",
        ),
        (
            {"app_listen": "unix:/tmp/am-nobody.sock", "command": None, "start_timeout": 0.3},
            FailedPrecondition,
            "Start",
        ),
        ({"app_listen": "127.0.0.1:50051"}, InvalidInput, "unix:/PATH"),
        ({"app_listen": f"unix:/{'x' * 120}"}, InvalidInput, "too long"),
        ({"instance": "../up"}, InvalidInput, "no name of an instance"),
        ({"advertise_host": "0.0.0.0"}, InvalidInput, "no address that others can reach"),
        ({"advertise_host": "no.such.host.invalid"}, InvalidInput, "MESH_SIDECAR_ADVERTISE"),
        ({"bind": Address("192.0.2.1", 0)}, InvalidInput, "MESH_SIDECAR_BIND"),
        ({"state_dir": Path("/proc/mesh")}, FailedPrecondition, "/proc/mesh"),
        ({"control_planes": (Address("127.0.0.1", 1),), "start_timeout": 1.0}, FailedPrecondition, "127.0.0.1:1"),
    ],
)
async def test_what_cannot_work_is_said_and_leaves_nothing(
    control_plane: Any, processes_of: Any, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as caught:
        async with asyncio.timeout(20), control_plane.open("echo", **changes):
            pass
    assert words in str(caught.value)
    assert processes_of(control_plane.state_dir) == []
    assert list(control_plane.state_dir.glob("run/*")) == []
    assert control_plane.registry.events == []


async def test_a_server_without_health_is_told_what_to_add(
    control_plane: Any, unhealthy_command: Any, processes_of: Any
) -> None:
    with pytest.raises(FailedPrecondition, match=r"echo does not serve grpc\.health\.v1\.Health") as caught:
        async with asyncio.timeout(20), control_plane.open("echo", command=unhealthy_command):
            pass
    assert "grpcio-health-checking" in caught.value.fix
    assert processes_of(control_plane.state_dir) == []


async def test_without_an_envoy_no_token_is_spent(
    control_plane: Any, monkeypatch: pytest.MonkeyPatch, short_dir: Path
) -> None:
    monkeypatch.setenv("MESH_ENVOY", str(short_dir / "envoy"))
    with pytest.raises(FailedPrecondition, match="There is no Envoy"):
        async with control_plane.open("echo"):
            pass
    assert [signed.spiffe_id.service for signed in control_plane.authority.issued()].count("echo") == 0
