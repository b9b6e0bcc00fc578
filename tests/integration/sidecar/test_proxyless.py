"""A program with gRPC's own xDS client and no Envoy calls a service behind a real one, with mutual TLS."""

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import InvalidInput

CALLER = (sys.executable, str(Path(__file__).parent / "servers" / "proxyless_caller.py"))


class Answers:
    """What the caller has written down."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []

    def failed(self) -> list[str]:
        return [line for line in self.lines() if line.startswith("FAILED")]


@pytest.fixture
def answers(short_dir: Path) -> Answers:
    return Answers(short_dir / "answers")


def proxyless(answers: Answers, **more: Any) -> dict[str, Any]:
    return {
        "command": CALLER,
        "env": {"ANSWERS": str(answers.path)},
        "is_proxyless": True,
        "deregister_wait": 0.05,
        **more,
    }


def who_calls(answers: Answers) -> str:
    """The certificate of the newest call, as the Envoy of the service tells it."""
    newest = [line for line in answers.lines() if line.endswith("}")][-1]
    return str(json.loads(newest)["metadata"]["x-forwarded-client-cert"])


def refusals(control_plane: Any) -> list[str]:
    return [it.nack_message for proxy in control_plane.ads.proxies() for it in proxy.resources if it.nack_message]


async def test_a_client_without_envoy_is_known_by_its_certificate_which_is_renewed_under_it(
    start_control_plane: Any, eventually: Any, answers: Answers, processes_of: Any
) -> None:
    async with start_control_plane(lifetime=timedelta(seconds=10)) as control_plane:
        control_plane.declare("caller", "echo")
        async with control_plane.open("echo", deregister_wait=0.05):
            await control_plane.wait_healthy("echo")
            async with control_plane.open("caller", **proxyless(answers, is_client=True)) as caller:
                await eventually(answers.lines)
                assert caller.envoy_pid is None
                assert not [
                    it for it in processes_of(control_plane.state_dir / "run" / caller.spec.instance) if "envoy" in it
                ]
                first = who_calls(answers)
                assert "svc/caller" in first
                # Each call has a connection of its own: Envoy tells the hash of the certificate that it shows.
                await caller.identity.renew_now()
                await eventually(lambda: who_calls(answers) != first)
                assert "svc/caller" in who_calls(answers)
                (proxy,) = (it for it in control_plane.ads.proxies() if it.protocol == "state-of-the-world")
                assert (proxy.node_id, proxy.service) == (f"{caller.spec.node_id}.grpc", "caller")
                assert refusals(control_plane) == []
        assert answers.failed() == []


async def test_a_service_without_envoy_on_its_way_out_has_one_on_its_way_in(
    control_plane: Any, eventually: Any, open_echo: Any, env_command: tuple[str, ...]
) -> None:
    control_plane.declare("caller", "both")
    both = control_plane.open("both", command=env_command, is_proxyless=True, deregister_wait=0.05)
    async with both as member, control_plane.open("caller", command=None) as caller:
        await control_plane.wait_healthy("both")
        async with open_echo(caller.outbound, "both.mesh") as echo:
            env = json.loads(await echo.say(b"0", timeout=10))
        assert member.envoy_pid is not None
        bootstrap = json.loads(Path(env["GRPC_XDS_BOOTSTRAP"]).read_text())
        assert bootstrap["xds_servers"][0]["server_uri"] == str(control_plane.control)
        files = bootstrap["certificate_providers"]["default"]["config"]
        assert Path(files["certificate_file"]).read_text() == member.identity.current.certificate_chain


async def test_nothing_is_left_of_a_client_that_has_left(
    control_plane: Any, answers: Answers, eventually: Any, processes_of: Any
) -> None:
    control_plane.declare("caller", "echo")
    async with control_plane.open("caller", **proxyless(answers, is_client=True)) as caller:
        run = control_plane.state_dir / "run" / caller.spec.instance
        await eventually(lambda: caller.app_pid is not None)
        assert (run / "grpc" / "bootstrap.json").stat().st_mode & 0o777 == 0o600
    assert not run.exists()
    assert processes_of(run) == []
    assert control_plane.registry.events == []


async def test_a_client_with_an_envoy_calls_by_it_and_is_not_registered(
    control_plane: Any, open_echo: Any, answers: Answers, eventually: Any
) -> None:
    control_plane.declare("caller", "echo")
    command = ("sh", "-c", 'echo "$MESH_OUTBOUND $MESH_LISTEN $GRPC_XDS_BOOTSTRAP" > "$ANSWERS"; exec sleep 1000')
    env = {"ANSWERS": str(answers.path)}
    client = control_plane.open("caller", command=command, env=env, is_client=True)
    async with control_plane.open("echo", deregister_wait=0.05), client as caller:
        await control_plane.wait_healthy("echo")
        await eventually(answers.lines)
        assert answers.lines() == [f"{caller.outbound}  "]
        async with open_echo(caller.outbound, "echo.mesh") as echo:
            assert await echo.say(b"0", timeout=10)
        assert "register caller" not in " ".join(control_plane.registry.events)


@pytest.mark.parametrize("changes", [{"is_client": True}, {"is_proxyless": True}])
async def test_a_client_needs_a_program(control_plane: Any, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        async with control_plane.open("caller", command=None, **changes):
            pass
    assert caught.value.field == "command"
