"""What `up` starts before any member: the control plane and, unless one is given, Consul."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import mesh
from agentmesh.control.v1 import control_service_pb2
from mesh.config import MeshSettings
from mesh.discovery import (
    AgentTls,
    ConsulAgent,
    ConsulAgentSettings,
    find_consul,
    open_background,
    open_consul_agent,
)
from mesh.errors import FailedPrecondition, MeshError
from mesh.identity import Identity, IdentitySettings, open_identity
from mesh.runtime import Backoff, Child, ChildSpec, Stop, supervise
from services.meshctl.connection import open_control
from services.meshctl.token import create_token

TOOLS_DIR = Path(mesh.__file__).resolve().parents[1] / ".tools"
_READY_TIMEOUT = 20.0
_POLL = 0.05


@asynccontextmanager
async def open_control_plane(settings: MeshSettings) -> AsyncIterator[None]:
    """Run the control plane as a child process, restarted when it dies; ready on entry.

    Raises FailedPrecondition with its own words when it ends before it is ready.
    """
    started: list[Child] = []

    async def note(child: Child) -> None:
        started.append(child)

    spec = ChildSpec(
        name="control-plane",
        command=(sys.executable, "-m", "services.control_plane"),
        env={"MESH_STATE_DIR": str(settings.state_dir), "CONSUL_HTTP_ADDR": _consul_url(settings)},
        grace=10.0,
    )
    stop = Stop()
    async with open_background(supervise(spec, backoff=Backoff(0.1, 5.0), on_start=note, stop=stop)):
        await _wait_for_control_plane(settings, started)
        yield
        stop.set()


def _consul_url(settings: MeshSettings) -> str:
    return f"{settings.consul_scheme}://{settings.consul}"


async def _wait_for_control_plane(settings: MeshSettings, started: list[Child]) -> None:
    try:
        async with asyncio.timeout(_READY_TIMEOUT):
            while True:
                if any(child.returncode is not None for child in started):
                    raise FailedPrecondition(
                        f"The control plane ended: {_last_words(started[0].last_output)}",
                        reason="CONTROL_PLANE_FAILED",
                        fix="See `meshctl logs control-plane`.",
                    )
                if await _answers(settings):
                    return
                await asyncio.sleep(_POLL)
    except TimeoutError as err:
        raise FailedPrecondition(
            f"The control plane is not ready after {_READY_TIMEOUT:g} s.", fix="See `meshctl logs control-plane`."
        ) from err


async def _answers(settings: MeshSettings) -> bool:
    try:
        async with open_control(settings) as control:
            await control.GetMesh(control_service_pb2.GetMeshRequest(), timeout=1.0)
    except MeshError:
        return False
    return True


def _last_words(lines: tuple[str, ...]) -> str:
    """The error in the last log lines of one of our programs; its last line when there is none."""
    for line in reversed(lines):
        try:
            facts = json.loads(line)
        except ValueError:
            continue
        if isinstance(facts, dict) and facts.get("error"):
            return str(facts["error"])
    return lines[-1] if lines else "it said nothing."


@asynccontextmanager
async def open_consul(settings: MeshSettings, *, say: Callable[[str], None]) -> AsyncIterator[ConsulAgent]:
    """Run the mesh's own Consul; it checks the members' health over mutual TLS with an identity of its own."""
    binary = await asyncio.to_thread(find_consul, TOOLS_DIR, progress=say)

    async def token() -> str:
        text, _ = await create_token(settings, "consul")
        return text

    identity_settings = IdentitySettings(
        service="consul",
        directory=settings.state_dir / "identity" / "consul",
        enrolment=settings.enrolment_advertise,
        control=settings.control_advertise,
        trust_domain=settings.trust_domain,
    )
    async with open_identity(identity_settings, token) as identity:
        agent_settings = ConsulAgentSettings(
            binary=binary,
            data_dir=settings.state_dir / "consul",
            http=settings.consul,
            rpc_port=settings.consul_rpc_port,
            serf_port=settings.consul_serf_port,
            tls=_agent_tls(identity_settings.directory),
        )
        async with open_consul_agent(agent_settings) as agent, open_background(_follow_renewals(identity, agent)):
            yield agent


def _agent_tls(directory: Path) -> AgentTls:
    return AgentTls(ca_file=directory / "bundle.pem", cert_file=directory / "svid.pem", key_file=directory / "key.pem")


async def _follow_renewals(identity: Identity, agent: ConsulAgent) -> None:
    """Make Consul read its certificate again after each renewal."""
    while True:
        await identity.wait_for_renewal()
        await agent.reload()


def environment_of(settings: MeshSettings) -> dict[str, str]:
    """The variables that name this mesh, for programs that `up` starts."""
    return {
        "MESH_STATE_DIR": str(settings.state_dir),
        "MESH_TRUST_DOMAIN": settings.trust_domain,
        "MESH_LOG_LEVEL": os.environ.get("MESH_LOG_LEVEL") or "info",
    }
