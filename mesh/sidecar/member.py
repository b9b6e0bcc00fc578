"""Takes one member into the mesh, keeps it there, and takes it out without a failed call.

The way out, each step after the one before:

    deregistered          callers hear of it and go elsewhere
    listeners closed      open connections are asked to leave; calls in flight end by themselves, if they do
    application ended     SIGTERM: streams end themselves, calls finish; its own calls still find their way out
    Envoy ended           when the last byte has left it
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from mesh.discovery import HealthCheck, Registration, Registry, open_registration
from mesh.errors import InvalidInput, MeshError
from mesh.identity import Identity, IdentitySettings, open_identity
from mesh.model import ZONE, Address, Instance, ProxySpec, SpiffeId
from mesh.runtime import ChildSpec, Supervised, open_background, open_supervised
from mesh.sidecar.application import Application, ApplicationSettings, open_application
from mesh.sidecar.bootstrap import ControlPlane
from mesh.sidecar.capabilities import read_capabilities, watch_capabilities
from mesh.sidecar.edge_certificate import open_edge_certificate
from mesh.sidecar.envoy import Envoy, EnvoySettings, find_envoy, open_envoy
from mesh.sidecar.listening import reserve_listeners, resolve_advertised
from mesh.sidecar.proxyless import BOOTSTRAP_VARIABLE, open_proxyless
from mesh.sidecar.run_dir import RunDirectory, open_run_dir
from mesh.sidecar.settings import MemberSettings
from mesh.telemetry import get_logger

CONTROL_PLANE = "control-plane"

OpenRegistry = Callable[[Identity], AbstractAsyncContextManager[Registry]]
"""Gives the registry in which a member is written down, by the identity that the member has got."""

_KILL_MARGIN = 5.0
"""Seconds from the end of an application's grace to SIGKILL."""

_log = get_logger(__name__)


class Member:
    """A member that is in the mesh. Made by `open_member`."""

    def __init__(
        self,
        spec: ProxySpec,
        instance: Instance,
        identity: Identity,
        envoy: Envoy | None,
        application: Application | Supervised | None,
        registration: Registration | None,
        registry: Registry,
    ) -> None:
        self.spec = spec
        self.identity = identity
        self.registry = registry
        self._instance = instance
        self._envoy = envoy
        self._application = application
        self._registration = registration

    @property
    def outbound(self) -> str:
        """The target of its way out: any program of this user may call by it, with the authority NAME.mesh."""
        return f"unix:{self.spec.outbound_socket}"

    @property
    def instance(self) -> Instance:
        """What the registry is told."""
        return self._registration.instance if self._registration is not None else self._instance

    @property
    def envoy_pid(self) -> int | None:
        """The process id of its Envoy; another one after a crash, None when it has none."""
        return self._envoy.pid if self._envoy is not None else None

    @property
    def app_pid(self) -> int | None:
        """The process id of its application; None when somebody else runs it."""
        return self._application.pid if self._application is not None else None


@asynccontextmanager
async def open_member(
    settings: MemberSettings, *, token: Callable[[], Awaitable[str]], registry: OpenRegistry
) -> AsyncIterator[Member]:
    """Take a member into the mesh while the block runs; on entry it is healthy and configured.

    It is registered then, too, unless the registry is away: it is as soon as that is back. `token` is asked for a join
    token when there is no certificate yet, and `registry` for the registry as soon as there is one. Raises MeshError
    that names what is wrong: with the settings, a port, the control plane, the command, or the registry; nothing of
    the member is left then.
    """
    settings.check()
    if settings.has_envoy:
        # Before a join token is spent.
        find_envoy()
    advertised = await resolve_advertised(settings.advertise_host)
    instance_id = settings.instance or f"{settings.service}-{secrets.token_hex(3)}"
    async with AsyncExitStack() as stack:
        run_dir = stack.enter_context(open_run_dir(settings.state_dir, instance_id, is_kept=bool(settings.instance)))
        spec = reserve_listeners(settings, instance_id, run_dir, stack.enter_context(ExitStack()))
        identity = await stack.enter_async_context(open_identity(_identity_settings(settings, run_dir), token))
        members = await stack.enter_async_context(registry(identity))
        variables = {}
        if settings.is_proxyless:
            files = open_proxyless(spec, settings.control_planes, identity, run_dir.grpc)
            variables[BOOTSTRAP_VARIABLE] = str(await stack.enter_async_context(files))
        envoy = None
        if settings.edge_certificate is not None:
            await stack.enter_async_context(open_edge_certificate(settings.edge_certificate, run_dir.secrets))
        if settings.has_envoy:
            envoy = await stack.enter_async_context(open_envoy(_envoy_settings(settings, spec, run_dir)))
            variables["MESH_OUTBOUND"] = f"unix:{spec.outbound_socket}"
        variables["MESH_TRUST_BUNDLE"] = str(run_dir.secrets / "bundle.pem")
        if spec.has_edge:
            variables |= {
                "MESH_GUARD_LISTEN": f"unix:{spec.guard_socket}",
                "MESH_WEB_LISTEN": f"unix:{spec.web_socket}",
                # Its key signs on whose behalf calls are made.
                "MESH_SECRETS_DIR": str(run_dir.secrets),
                "MESH_AUDIT_DIR": str(settings.state_dir.absolute() / "audit" / spec.instance),
            }
        application: Application | None = None
        if envoy is not None and spec.inbound is not None:
            stack.push_async_callback(envoy.wait_quiet, settings.drain_grace)
            application_settings = _application_settings(settings, spec, variables)
            application = await stack.enter_async_context(open_application(application_settings))
        await _wait_until_ready(envoy, application, settings.start_timeout)
        program = application or await _start_client(settings, spec, variables, stack)
        instance = await _describe(settings, spec, advertised)
        registration = None
        if envoy is not None and application is not None:
            stack.push_async_callback(_leave, settings, spec, envoy)
            registration = await stack.enter_async_context(_open_registration(settings, spec, instance, members))
        yield Member(spec, instance, identity, envoy, program, registration, members)


def _identity_settings(settings: MemberSettings, run_dir: RunDirectory) -> IdentitySettings:
    return IdentitySettings(
        service=settings.service,
        directory=run_dir.secrets,
        enrolment=settings.enrolment,
        control_planes=settings.control_planes,
        trust_domain=settings.trust_domain,
    )


def _envoy_settings(settings: MemberSettings, spec: ProxySpec, run_dir: RunDirectory) -> EnvoySettings:
    control = ControlPlane(settings.control_planes, SpiffeId(settings.trust_domain, settings.namespace, CONTROL_PLANE))
    return EnvoySettings(spec=spec, control=control, run_dir=run_dir)


def _application_settings(
    settings: MemberSettings, spec: ProxySpec, variables: Mapping[str, str]
) -> ApplicationSettings:
    return ApplicationSettings(
        name=settings.service,
        socket=Path(spec.app_socket),
        command=settings.command,
        env={**_environment(settings, spec), "MESH_LISTEN": f"unix:{spec.app_socket}", **variables},
        grace=settings.drain_grace + _KILL_MARGIN,
    )


def _environment(settings: MemberSettings, spec: ProxySpec) -> dict[str, str]:
    return {
        # The launcher's own; of no use to the application, and a secret.
        "MESH_JOIN_TOKEN": "",
        **settings.env,
        "MESH_SERVICE": settings.service,
        "MESH_INSTANCE": spec.instance,
        "MESH_TRUST_DOMAIN": settings.trust_domain,
        "MESH_NAMESPACE": settings.namespace,
    }


async def _start_client(
    settings: MemberSettings, spec: ProxySpec, variables: Mapping[str, str], stack: AsyncExitStack
) -> Supervised | None:
    """Run a program that only calls, if there is one; it is kept running, and nobody asks how it is."""
    if settings.command is None or not settings.is_client:
        return None
    child = ChildSpec(
        name=settings.service,
        command=settings.command,
        env={**_environment(settings, spec), **variables},
        grace=settings.drain_grace + _KILL_MARGIN,
    )
    return await stack.enter_async_context(open_supervised(child))


async def _wait_until_ready(envoy: Envoy | None, application: Application | None, timeout: float) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            if envoy is not None:
                group.create_task(envoy.wait_live(timeout))
            if application is not None:
                group.create_task(application.wait_serving(timeout))
    except BaseExceptionGroup as several:
        # When both are late, one reason is enough for a person.
        first = several.exceptions[0]
        raise first from first.__cause__


async def _describe(settings: MemberSettings, spec: ProxySpec, advertised: str) -> Instance:
    inbound = spec.inbound or Address("", 0)
    capabilities: tuple[str, ...] = ()
    if spec.inbound is not None:
        capabilities = await read_capabilities(settings.kind, f"unix:{spec.app_socket}")
    return Instance(
        service=settings.service,
        id=spec.instance,
        address=advertised,
        port=inbound.port,
        kind=settings.kind,
        version=settings.version,
        capabilities=capabilities,
        metadata=MappingProxyType(({ZONE: settings.zone} if settings.zone else {}) | dict(settings.metadata)),
    )


@asynccontextmanager
async def _open_registration(
    settings: MemberSettings, spec: ProxySpec, instance: Instance, registry: Registry
) -> AsyncIterator[Registration]:
    port = spec.exposed_health.port if spec.exposed_health is not None else instance.port
    check = HealthCheck(Address(instance.address, port), use_tls=spec.exposed_health is None)
    async with AsyncExitStack() as stack:
        try:
            registration = await stack.enter_async_context(open_registration(registry, instance, check))
        except InvalidInput as err:
            if err.field != "capabilities":
                raise
            # A name that the registry cannot write down is no reason to keep a service out of the mesh.
            _log.warning("capabilities_not_registered", instance=instance.id, error=str(err))
            bare = replace(instance, capabilities=())
            registration = await stack.enter_async_context(open_registration(registry, bare, check))
        await stack.enter_async_context(open_background(_follow_capabilities(settings, spec, registration)))
        yield registration


async def _leave(settings: MemberSettings, spec: ProxySpec, envoy: Envoy) -> None:
    """After the deregistration: callers are given time to hear of it, and to finish what they began."""
    await asyncio.sleep(settings.deregister_wait)
    # An application that we run gets time of its own after SIGTERM; one of somebody else's hears nothing.
    wait = settings.quiet_wait if settings.command is not None else settings.drain_grace
    if not await envoy.drain(wait):
        _log.info("calls_still_in_flight", instance=spec.instance, waited=wait)


async def _follow_capabilities(settings: MemberSettings, spec: ProxySpec, registration: Registration) -> None:
    async with aclosing(watch_capabilities(settings.kind, f"unix:{spec.app_socket}")) as changes:
        async for names in changes:
            known = registration.instance
            if names == known.capabilities:
                continue
            _log.info("capabilities_changed", instance=spec.instance, count=len(names))
            try:
                await _register(registration, replace(known, capabilities=names), known)
            except MeshError as err:
                _log.warning("capabilities_not_registered", instance=spec.instance, error=str(err))


async def _register(registration: Registration, wanted: Instance, known: Instance) -> None:
    try:
        await registration.update(wanted)
    except InvalidInput:
        # It would be refused for ever, also when the registry has lost the instance and needs it anew.
        await registration.update(known)
        raise
