"""Members that cannot start: they say why, and leave nothing."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import FailedPrecondition, InvalidInput
from mesh.model import Address


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
