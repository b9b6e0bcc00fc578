"""What `up` starts before any member: the control plane and, unless one is given, Consul."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from agentmesh.control.v1 import control_service_pb2
from mesh.config import MeshSettings
from mesh.discovery import (
    AgentTls,
    ConsulAgent,
    ConsulAgentSettings,
    find_consul,
    open_consul_agent,
)
from mesh.errors import MeshError
from mesh.identity import Identity, IdentitySettings, open_identity
from mesh.runtime import Backoff, ChildSpec, open_background, open_supervised
from mesh.telemetry import get_logger
from services.meshctl.connection import open_control
from services.meshctl.registry import TOOLS_DIR
from services.meshctl.token import create_token

_READY_TIMEOUT = 20.0

_log = get_logger(__name__)


@asynccontextmanager
async def open_control_plane(settings: MeshSettings) -> AsyncIterator[None]:
    """Run the control plane as a child process, restarted when it dies; ready on entry.

    Raises FailedPrecondition with its own words when it ends before it is ready.
    """
    spec = ChildSpec(
        name="control-plane",
        command=(sys.executable, "-m", "services.control_plane"),
        env={
            "MESH_STATE_DIR": str(settings.state_dir),
            "MESH_REGISTRY": settings.registry,
            "CONSUL_HTTP_ADDR": _consul_url(settings),
        },
        grace=10.0,
    )
    async with open_supervised(spec) as process:
        await process.wait_ready(
            lambda: _answers(settings), timeout=_READY_TIMEOUT, fix="See `meshctl logs control-plane`."
        )
        yield


def _consul_url(settings: MeshSettings) -> str:
    return f"{settings.consul_scheme}://{settings.consul}"


async def _answers(settings: MeshSettings) -> bool:
    try:
        async with open_control(settings) as control:
            await control.GetMesh(control_service_pb2.GetMeshRequest(), timeout=1.0)
    except MeshError:
        return False
    return True


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
        control_planes=settings.control_planes,
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
    """Make Consul read its certificate again after each renewal, and again when it could not hear of one."""
    shown = identity.current
    backoff = Backoff(0.2, 5.0)
    while True:
        if identity.current is shown:
            await identity.wait_for_renewal()
        newest = identity.current
        try:
            await agent.reload()
        except MeshError as err:
            # It may be down at this moment; a new start reads the files anyway.
            _log.warning("consul_reload_failed", error=str(err), reason=err.reason)
            await asyncio.sleep(backoff.next())
            continue
        backoff.reset()
        shown = newest


def environment_of(settings: MeshSettings) -> dict[str, str]:
    """The variables that name this mesh, for programs that `up` starts."""
    return {
        "MESH_STATE_DIR": str(settings.state_dir),
        "MESH_TRUST_DOMAIN": settings.trust_domain,
        "MESH_LOG_LEVEL": os.environ.get("MESH_LOG_LEVEL") or "info",
    }
