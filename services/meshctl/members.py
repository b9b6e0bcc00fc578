"""The members that this meshctl runs: each an application with its sidecar, registered in the mesh."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Self

import mesh
from mesh.config import MeshFile, MeshSettings, ServiceEntry
from mesh.discovery import ConsulRegistry
from mesh.model import Address
from mesh.runtime import Stop
from mesh.sidecar import Member, MemberSettings, open_member
from services.meshctl.token import create_token, declare

GATEWAY = "gateway"


@dataclass(frozen=True, slots=True)
class MemberRequest:
    """One member to run. `instance` is stable for members of a mesh file: files of an earlier run are reused."""

    name: str
    kind: str
    command: tuple[str, ...]
    upstreams: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    listen: str = ""
    instance: str = ""
    edge: Address | None = None

    @classmethod
    def gateway(cls, edge: Address) -> Self:
        """The edge: an Envoy of its own with the gateway application behind it."""
        command = (sys.executable, "-m", "services.gateway")
        return cls(GATEWAY, "gateway", command, upstreams=("*",), instance=f"{GATEWAY}-1", edge=edge)

    @classmethod
    def of_file(cls, mesh_file: MeshFile) -> list[Self]:
        """The members that a mesh file asks for, each instance for itself."""
        return [
            cls(
                name=entry.name,
                kind=entry.kind,
                command=command_of(entry),
                upstreams=entry.upstreams,
                env=entry.env,
                listen=entry.listen,
                instance=f"{entry.name}-{number}",
            )
            for entry in mesh_file.services.values()
            for number in range(1, entry.instances + 1)
        ]


def command_of(entry: ServiceEntry) -> tuple[str, ...]:
    """What to start for a service: itself, or the bridge in front of an MCP server."""
    return bridge_command(entry.command, entry.url) if entry.kind == "mcp" else entry.command


def bridge_command(command: Sequence[str], url: str) -> tuple[str, ...]:
    """The bridge in front of an MCP server that is a command or a URL."""
    bridge = (sys.executable, "-m", "services.mcp_bridge")
    return (*bridge, "--url", url) if url else (*bridge, "--", *command)


def build_settings(settings: MeshSettings, request: MemberRequest) -> MemberSettings:
    """The launcher's settings for one member."""
    return MemberSettings(
        service=request.name,
        kind=request.kind,
        version=mesh.__version__,
        instance=request.instance,
        state_dir=settings.state_dir,
        control=settings.control_advertise,
        enrolment=settings.enrolment_advertise,
        trust_domain=settings.trust_domain,
        namespace=settings.namespace,
        command=request.command or None,
        env=request.env,
        app_listen=request.listen,
        bind=Address(settings.sidecar_bind, 0),
        advertise_host=settings.sidecar_advertise,
        edge=request.edge,
        exposed_health=settings.consul_is_given,
    )


@asynccontextmanager
async def open_local_member(settings: MeshSettings, request: MemberRequest) -> AsyncIterator[Member]:
    """Declare a member to the control plane on this machine, let it join, and run it until the context ends."""
    await declare(settings, request.name, request.kind, request.upstreams)

    async def token() -> str:
        text, _ = await create_token(settings, request.name)
        return text

    async with open_member(build_settings(settings, request), token=token, registry=build_registry(settings)) as member:
        yield member


def build_registry(settings: MeshSettings) -> ConsulRegistry:
    """The registry of the mesh; it connects when it is asked."""
    return ConsulRegistry(settings.consul, token=settings.consul_token, scheme=settings.consul_scheme)


@asynccontextmanager
async def open_members(
    settings: MeshSettings, requests: Sequence[MemberRequest], *, say: Callable[[str], None], stop: Stop
) -> AsyncIterator[None]:
    """Run members side by side; ready when all of them are, or `stop` is set. They stop side by side, too."""
    held = asyncio.Event()
    started = [asyncio.Event() for _ in requests]

    async def hold(request: MemberRequest, is_started: asyncio.Event) -> None:
        async with AsyncExitStack() as stack:
            member = await stack.enter_async_context(open_local_member(settings, request))
            say(f"{request.instance or request.name} joined at {member.instance.address}:{member.instance.port}")
            is_started.set()
            await held.wait()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(hold(request, event)) for request, event in zip(requests, started, strict=True)]
        stopped = group.create_task(stop.wait())
        everything = group.create_task(_all_of(started))
        try:
            await asyncio.wait((stopped, everything), return_when=asyncio.FIRST_COMPLETED)
            if not everything.done():
                for task, event in zip(tasks, started, strict=True):
                    if not event.is_set():
                        task.cancel()
            yield
        finally:
            stopped.cancel()
            everything.cancel()
            held.set()


async def _all_of(events: Sequence[asyncio.Event]) -> None:
    for event in events:
        await event.wait()
