"""The members that this meshctl runs: each an application with its sidecar, registered in the mesh."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Self

import mesh
from mesh.config import MeshFile, MeshSettings, ServiceEntry
from mesh.errors import MeshError
from mesh.model import ZONE, Address
from mesh.sidecar import EdgeCertificate, Member, MemberSettings, open_member
from services.meshctl.failures import mesh_errors_of
from services.meshctl.registry import registry_of
from services.meshctl.token import create_token, declare

GATEWAY = "gateway"

_ANY_HOST = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to


@dataclass(frozen=True, slots=True)
class MemberRequest:
    """One member to run. `instance` is stable for members of a mesh file: files of an earlier run are reused.

    `version` and `metadata` are registered; "" stands for the version of agentmesh itself.
    `is_client` is for a command that serves nothing, `is_proxyless` for one that calls by gRPC's own xDS client.
    """

    name: str
    kind: str
    command: tuple[str, ...]
    upstreams: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    listen: str = ""
    instance: str = ""
    edge: Address | None = None
    edge_tls: Address | None = None
    edge_certificate: EdgeCertificate | None = None
    is_client: bool = False
    is_proxyless: bool = False
    version: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def gateway(cls, settings: MeshSettings) -> Self:
        """The edge: an Envoy of its own with the gateway application behind it."""
        return cls(
            GATEWAY,
            "gateway",
            (sys.executable, "-m", "services.gateway"),
            upstreams=("*",),
            env={"MESH_CACHE_URL": settings.cache_url},
            instance=f"{GATEWAY}-1",
            edge=None if settings.is_production else settings.gateway_bind,
            edge_tls=settings.gateway_tls_bind,
            edge_certificate=edge_certificate(settings),
        )

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
                version=entry.version,
                metadata=entry.metadata,
            )
            for entry in mesh_file.services.values()
            for number in range(1, entry.instances + 1)
        ]


def edge_certificate(settings: MeshSettings) -> EdgeCertificate:
    """What the edge shows to clients."""
    host = settings.gateway_tls_bind.host
    hosts = tuple(
        dict.fromkeys(("localhost", "*.localhost", "127.0.0.1", "::1", *(() if host in _ANY_HOST else (host,))))
    )
    return EdgeCertificate(
        own_dir=settings.state_dir / "edge",
        certificate=settings.edge_certificate,
        key=settings.edge_key,
        hosts=tuple(name for name in hosts if name not in _ANY_HOST),
    )


def command_of(entry: ServiceEntry) -> tuple[str, ...]:
    """What to start for a service: itself, or the bridge in front of an MCP server or of an agent elsewhere."""
    if entry.kind == "mcp":
        return bridge_command(entry.command, entry.url)
    return a2a_bridge_command(entry.url) if entry.url else entry.command


def bridge_command(command: Sequence[str], url: str) -> tuple[str, ...]:
    """The bridge in front of an MCP server that is a command or a URL."""
    bridge = (sys.executable, "-m", "services.mcp_bridge")
    return (*bridge, "--url", url) if url else (*bridge, "--", *command)


def a2a_bridge_command(url: str) -> tuple[str, ...]:
    """The bridge in front of an agent of A2A that is elsewhere."""
    return (sys.executable, "-m", "services.a2a_bridge", "--url", url)


def build_settings(settings: MeshSettings, request: MemberRequest) -> MemberSettings:
    """The launcher's settings for one member."""
    return MemberSettings(
        service=request.name,
        kind=request.kind,
        version=request.version or mesh.__version__,
        metadata=request.metadata,
        instance=request.instance,
        state_dir=settings.state_dir,
        control_planes=settings.control_planes,
        enrolment=settings.enrolment_advertise,
        trust_domain=settings.trust_domain,
        namespace=settings.namespace,
        command=request.command or None,
        env=request.env,
        app_listen=request.listen,
        bind=Address(settings.sidecar_bind, 0),
        advertise_host=settings.sidecar_advertise,
        edge=request.edge,
        edge_tls=request.edge_tls,
        edge_certificate=request.edge_certificate,
        # A Consul of somebody else's has no identity of the mesh.
        exposed_health=settings.consul_is_given and settings.registry != "embedded",
        is_client=request.is_client,
        is_proxyless=request.is_proxyless,
        zone=request.metadata.get(ZONE, settings.zone),
    )


@asynccontextmanager
async def open_local_member(settings: MeshSettings, request: MemberRequest) -> AsyncIterator[Member]:
    """Declare a member to the control plane on this machine, let it join, and run it until the context ends."""
    await declare(settings, request.name, request.kind, request.upstreams)

    async def token() -> str:
        text, _ = await create_token(settings, request.name)
        return text

    async with open_member(build_settings(settings, request), token=token, registry=registry_of(settings)) as member:
        yield member


@asynccontextmanager
async def open_members(
    settings: MeshSettings, requests: Sequence[MemberRequest], *, say: Callable[[str], None]
) -> AsyncIterator[None]:
    """Run members side by side; ready when all of them are. They stop side by side, too.

    When one of them fails, all others stop, and what failed is raised, in a group and with the member's name.
    """
    held = asyncio.Event()
    started = [asyncio.Event() for _ in requests]

    async def hold(request: MemberRequest, is_started: asyncio.Event) -> None:
        name = request.instance or request.name
        async with AsyncExitStack() as stack:
            try:
                member = await stack.enter_async_context(open_local_member(settings, request))
            except (MeshError, BaseExceptionGroup) as err:
                say(f"{name} FAILED to start; stopping")
                raise named(err, name) from err
            say(f"{name} joined at {member.instance.address}:{member.instance.port}")
            is_started.set()
            await held.wait()

    async with asyncio.TaskGroup() as group:
        for request, event in zip(requests, started, strict=True):
            group.create_task(hold(request, event))
        try:
            for event in started:
                await event.wait()
            yield
        finally:
            held.set()


def named(error: MeshError | BaseExceptionGroup[BaseException], name: str) -> BaseException:
    """The error of a member's start with its name in front; what holds a defect stays as it is."""
    errors = mesh_errors_of(error)
    if not errors:
        return error
    first, *_ = errors
    summary = first.summary if first.summary.startswith(name) else f"{name} did not start: {first.summary}"
    return type(first)(
        summary, reason=first.reason, field=first.field, fix=first.fix, service=first.service, retryable=first.retryable
    )
