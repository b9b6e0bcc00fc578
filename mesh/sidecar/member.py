"""Takes one member into the mesh, keeps it there, and takes it out without a failed call."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from mesh.discovery import HealthCheck, Registration, Registry, open_registration
from mesh.errors import InvalidInput, MeshError
from mesh.identity import Identity, IdentitySettings, open_identity
from mesh.model import Address, Instance, ProxySpec, SpiffeId, check_service_name
from mesh.runtime import open_background
from mesh.sidecar.application import Application, ApplicationSettings, open_application
from mesh.sidecar.bootstrap import ControlPlane
from mesh.sidecar.capabilities import read_capabilities, watch_capabilities
from mesh.sidecar.envoy import Envoy, EnvoySettings, open_envoy
from mesh.sidecar.run_dir import RunDirectory, open_run_dir
from mesh.sidecar.tcp import reserve
from mesh.telemetry import get_logger

CONTROL_PLANE = "control-plane"

_EVERY_ADDRESS = {"0.0.0.0", "::", ""}  # noqa: S104 - compared with, not bound to

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class MemberSettings:
    """One member of the mesh.

    `instance` is its id; "" makes one, whose files are removed at the end. `command` runs the application, which
    serves at MESH_LISTEN; `app_listen` ("unix:PATH") is where it serves when it does not obey that. With neither it is
    a pure client: it can call, and is not registered. `bind` is for the inbound listener (port 0 for any free one),
    `advertise_host` what others are told. `exposed_health` is for a registry without an identity of the mesh: health
    is then answered without TLS as well, and nothing else is. Seconds: `start_timeout` until the application must be
    healthy and Envoy live, `deregister_wait` for callers to hear of the end, `drain_grace` for calls in flight.
    """

    service: str
    kind: str
    state_dir: Path
    control: Address
    enrolment: Address
    trust_domain: str
    namespace: str = "default"
    version: str = ""
    instance: str = ""
    command: tuple[str, ...] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    app_listen: str = ""
    bind: Address = Address("127.0.0.1", 0)  # noqa: RUF009 - frozen
    advertise_host: str = "127.0.0.1"
    edge: Address | None = None
    exposed_health: bool = False
    start_timeout: float = 30.0
    drain_grace: float = 30.0
    deregister_wait: float = 0.5


class Member:
    """A member that is in the mesh. Made by `open_member`."""

    def __init__(
        self,
        instance: Instance,
        outbound: str,
        identity: Identity,
        envoy: Envoy,
        application: Application | None,
        registration: Registration | None,
    ) -> None:
        self.outbound = outbound
        self.identity = identity
        self._instance = instance
        self._envoy = envoy
        self._application = application
        self._registration = registration

    @property
    def instance(self) -> Instance:
        """What the registry is told."""
        return self._registration.instance if self._registration is not None else self._instance

    @property
    def envoy_pid(self) -> int | None:
        """The process id of its Envoy; another one after a crash."""
        return self._envoy.pid

    @property
    def app_pid(self) -> int | None:
        """The process id of its application; None when somebody else runs it."""
        return self._application.pid if self._application is not None else None


@asynccontextmanager
async def open_member(
    settings: MemberSettings, *, token: Callable[[], Awaitable[str]], registry: Registry
) -> AsyncIterator[Member]:
    """Take a member into the mesh while the block runs; on entry it is healthy, configured and registered.

    `token` is asked for a join token when there is no certificate yet. Raises MeshError that names what is wrong: with
    the settings, a port, the control plane, the command, or the registry.
    """
    check_service_name(settings.service)
    instance_id = settings.instance or f"{settings.service}-{secrets.token_hex(3)}"
    async with AsyncExitStack() as stack:
        run_dir = stack.enter_context(open_run_dir(settings.state_dir, instance_id, is_kept=bool(settings.instance)))
        spec = _reserve_ports(settings, instance_id, run_dir, stack)
        identity = await stack.enter_async_context(
            open_identity(
                IdentitySettings(
                    service=settings.service,
                    directory=run_dir.secrets,
                    enrolment=settings.enrolment,
                    control=settings.control,
                    trust_domain=settings.trust_domain,
                ),
                token,
            )
        )
        envoy, application = await _open_processes(settings, spec, run_dir, stack)
        instance = await _describe(settings, spec)
        registration = None
        if spec.inbound is not None:
            registration = await stack.enter_async_context(
                _open_registration(settings, spec, instance, registry, envoy)
            )
        outbound = f"unix:{run_dir.outbound_socket}"
        yield Member(instance, outbound, identity, envoy, application, registration)


def _reserve_ports(
    settings: MemberSettings, instance_id: str, run_dir: RunDirectory, stack: AsyncExitStack
) -> ProxySpec:
    spec = ProxySpec(
        service=settings.service,
        instance=instance_id,
        outbound_socket=str(run_dir.outbound_socket),
        secrets_dir=str(run_dir.secrets),
    )
    if settings.command is None and not settings.app_listen:
        return spec
    if settings.advertise_host in _EVERY_ADDRESS:
        raise InvalidInput(
            f"{settings.advertise_host!r} is no address that others can reach.",
            field="MESH_SIDECAR_ADVERTISE",
            fix="Set it to this machine's address as the other members see it.",
        )
    inbound = stack.enter_context(reserve(settings.bind, field="MESH_SIDECAR_BIND"))
    health = None
    if settings.exposed_health:
        health = stack.enter_context(reserve(Address(settings.bind.host, 0), field="MESH_SIDECAR_BIND"))
    if settings.edge is not None:
        stack.enter_context(reserve(settings.edge, field="MESH_GATEWAY_BIND"))
    app_socket = settings.app_listen.removeprefix("unix:") or str(run_dir.app_socket)
    return replace(spec, inbound=inbound, app_socket=app_socket, exposed_health=health, edge=settings.edge)


async def _open_processes(
    settings: MemberSettings, spec: ProxySpec, run_dir: RunDirectory, stack: AsyncExitStack
) -> tuple[Envoy, Application | None]:
    """Start Envoy and application side by side; Envoy ends last, for the application still calls while it drains."""
    control = ControlPlane(settings.control, SpiffeId(settings.trust_domain, settings.namespace, CONTROL_PLANE))
    envoy_context = open_envoy(EnvoySettings(spec=spec, control=control, run_dir=run_dir.path))
    if spec.inbound is None:
        envoy = await stack.enter_async_context(envoy_context)
        await envoy.wait_live(settings.start_timeout)
        return envoy, None
    app_context = open_application(
        ApplicationSettings(
            name=settings.service,
            target=f"unix:{spec.app_socket}",
            command=settings.command,
            env={
                **settings.env,
                "MESH_SERVICE": settings.service,
                "MESH_INSTANCE": spec.instance,
                "MESH_LISTEN": f"unix:{spec.app_socket}",
                "MESH_OUTBOUND": f"unix:{spec.outbound_socket}",
                "MESH_TRUST_DOMAIN": settings.trust_domain,
            },
            grace=settings.drain_grace + 5.0,
        )
    )
    envoy = await stack.enter_async_context(envoy_context)
    application = await stack.enter_async_context(app_context)
    async with asyncio.TaskGroup() as group:
        group.create_task(envoy.wait_live(settings.start_timeout))
        group.create_task(application.wait_serving(settings.start_timeout))
    return envoy, application


async def _describe(settings: MemberSettings, spec: ProxySpec) -> Instance:
    inbound = spec.inbound or Address("", 0)
    capabilities: tuple[str, ...] = ()
    if spec.inbound is not None:
        capabilities = await read_capabilities(settings.kind, f"unix:{spec.app_socket}")
    return Instance(
        service=settings.service,
        id=spec.instance,
        address=settings.advertise_host,
        port=inbound.port,
        kind=settings.kind,
        version=settings.version,
        capabilities=capabilities,
    )


@asynccontextmanager
async def _open_registration(
    settings: MemberSettings, spec: ProxySpec, instance: Instance, registry: Registry, envoy: Envoy
) -> AsyncIterator[Registration]:
    """Registered on entry; afterwards callers are given time to hear of the end, and to finish what they began."""
    port = spec.exposed_health.port if spec.exposed_health is not None else instance.port
    check = HealthCheck(Address(settings.advertise_host, port), use_tls=spec.exposed_health is None)
    try:
        async with (
            open_registration(registry, instance, check) as registration,
            open_background(_follow_capabilities(settings, spec, registration)),
        ):
            yield registration
    finally:
        await asyncio.sleep(settings.deregister_wait)
        if not await envoy.drain(settings.drain_grace):
            _log.warning("drain_incomplete", instance=instance.id, grace=settings.drain_grace)


async def _follow_capabilities(settings: MemberSettings, spec: ProxySpec, registration: Registration) -> None:
    async for names in watch_capabilities(settings.kind, f"unix:{spec.app_socket}"):
        if names != registration.instance.capabilities:
            _log.info("capabilities_changed", instance=spec.instance, count=len(names))
            try:
                await registration.update(replace(registration.instance, capabilities=names))
            except MeshError as err:
                _log.warning("capabilities_not_registered", instance=spec.instance, error=str(err))
