"""A control plane in this process, a registry in memory, and members with a real Envoy each."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agentmesh.identity.v1 import identity_service_pb2, identity_service_pb2_grpc
from mesh.access.issuer import AccessStores, TokenIssuer
from mesh.config.document import MeshDocument, Policy
from mesh.config.history import RevisionStore
from mesh.config.history.file_keys import FileKeys
from mesh.discovery import HealthCheck, RegistrySnapshot
from mesh.errors import InvalidInput, Unavailable
from mesh.identity import CertificateAuthority, IdentityServicer, JoinTokens, open_server_credentials
from mesh.model import Address, Declaration, Instance
from mesh.rpc import Server, ServerSettings, Service, open_server, open_target
from mesh.runtime import open_background
from mesh.sidecar import Member, MemberSettings, open_member
from mesh.state import MeshState, StateStore
from mesh.telemetry import configure_logs
from mesh.xds import AdsServer
from services.control_plane.access_keeper import AccessKeeper
from services.control_plane.gateway_service import GatewayServicer, gateway_service

TRUST_DOMAIN = "test.local"
SERVERS = Path(__file__).parent / "servers"
ECHO = (sys.executable, str(SERVERS / "echo.py"))
CHECK_INTERVAL = 0.05
EVERYBODY = {
    "access": {
        "roles": {"caller": {"allow": [{}]}},
        "bindings": {"everybody": {"anonymous": True, "roles": ["caller"]}},
    }
}


class MemoryRegistry:
    """A registry in memory, which obeys the protocol `Registry`: an instance is healthy once its check has succeeded.

    A check with TLS only looks whether somebody listens: the check's own certificate is Consul's business.
    """

    def __init__(self) -> None:
        self.checks: dict[str, HealthCheck] = {}
        self.events: list[str] = []
        self.is_away = False
        self.refused_capability = ""
        self._instances: dict[str, Instance] = {}
        self._changed = asyncio.Event()

    async def register(self, instance: Instance, check: HealthCheck) -> None:
        if self.is_away:
            raise Unavailable("The registry is away.")
        if self.refused_capability in instance.capabilities:
            raise InvalidInput(f"{self.refused_capability!r} cannot be written down.", field="capabilities")
        self.events.append(f"register {instance.id}")
        self.checks[instance.id] = check
        known = self._instances.get(instance.id)
        self._put(replace(instance, is_healthy=known is not None and known.is_healthy))

    async def deregister(self, instance_id: str) -> None:
        self.events.append(f"deregister {instance_id}")
        self.checks.pop(instance_id, None)
        self.lose(instance_id)

    async def renew(self, instance_id: str) -> bool:
        return await self.is_registered(instance_id)

    async def is_registered(self, instance_id: str) -> bool:
        if self.is_away:
            raise Unavailable("The registry is away.")
        return instance_id in self._instances

    def lose(self, instance_id: str) -> None:
        """Forget an instance, as a registry does that has lost its data."""
        self._instances.pop(instance_id, None)
        self._wake()

    async def watch(self) -> AsyncIterator[RegistrySnapshot]:
        while True:
            changed = self._changed
            yield RegistrySnapshot(self.services(), is_available=True)
            await changed.wait()

    def services(self) -> dict[str, tuple[Instance, ...]]:
        found: dict[str, tuple[Instance, ...]] = {}
        for _, instance in sorted(self._instances.items()):
            found[instance.service] = (*found.get(instance.service, ()), instance)
        return found

    async def check_for_ever(self) -> None:
        while True:
            for instance_id, check in tuple(self.checks.items()):
                is_healthy = await _is_healthy(check)
                known = self._instances.get(instance_id)
                if known is not None and known.is_healthy != is_healthy:
                    self._put(replace(known, is_healthy=is_healthy))
            await asyncio.sleep(CHECK_INTERVAL)

    def _put(self, instance: Instance) -> None:
        self._instances[instance.id] = instance
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


async def _is_healthy(check: HealthCheck) -> bool:
    if check.use_tls:
        try:
            _, writer = await asyncio.open_connection(check.target.host, check.target.port)
        except OSError:
            return False
        writer.close()
        return True
    async with open_target(str(check.target)) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=check.timeout)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


@dataclass
class ControlPlane:
    """What a member needs of a control plane, in this process."""

    state_dir: Path
    authority: CertificateAuthority
    tokens: JoinTokens
    store: StateStore
    registry: MemoryRegistry
    enrolment: Address
    control: Address
    ads: AdsServer
    declarations: dict[str, Declaration] = field(default_factory=dict)

    def declare(self, service: str, *upstreams: str, kind: str = "service") -> None:
        self.declarations[service] = Declaration(service, kind, upstreams)
        self.store.set_declarations(self.declarations)

    def settings(self, service: str, **changes: Any) -> MemberSettings:
        """A member that runs the echo server, unless `changes` say something else."""
        given: dict[str, Any] = {
            "service": service,
            "kind": "service",
            "state_dir": self.state_dir,
            "control_planes": (self.control,),
            "enrolment": self.enrolment,
            "trust_domain": TRUST_DOMAIN,
            "command": ECHO,
            "start_timeout": 20.0,
            "drain_grace": 10.0,
        }
        return MemberSettings(**given | changes)

    def open(self, service: str, **changes: Any) -> AbstractAsyncContextManager[Member]:
        async def token() -> str:
            text, _ = self.tokens.create(service, timedelta(minutes=1), fingerprint=self.authority.fingerprint)
            return text

        return open_member(
            self.settings(service, **changes), token=token, registry=lambda _: nullcontext(self.registry)
        )

    async def wait_healthy(self, service: str, count: int = 1) -> None:
        """Wait until the state that proxies get has so many healthy instances."""
        async with asyncio.timeout(10):
            async for state in self.store.watch():
                if sum(instance.is_healthy for instance in state.services.get(service, ())) == count:
                    return


@asynccontextmanager
async def open_control_plane(state_dir: Path, *, lifetime: timedelta, host: str) -> AsyncIterator[ControlPlane]:
    authority = CertificateAuthority.open(state_dir / "ca", trust_domain=TRUST_DOMAIN)
    tokens = JoinTokens.open(state_dir / "ca")
    store = StateStore(MeshState(TRUST_DOMAIN))
    store.set_policy(Policy(MeshDocument.model_validate(EVERYBODY)))
    ads = AdsServer(store)
    registry = MemoryRegistry()

    async def follow() -> None:
        async for snapshot in registry.watch():
            store.set_services(snapshot.services)

    keeper = AccessKeeper(AccessStores(state_dir / "ca" / "access"), store)
    issuer = TokenIssuer(keeper.stores, lambda: keeper.tokens)
    history = RevisionStore(FileKeys(state_dir / "config"))
    gateways = GatewayServicer(store, keeper, issuer, history, draining=asyncio.Event())

    async with AsyncExitStack() as stack:

        async def serve(*, is_enrolment: bool) -> Server:
            tls = await stack.enter_async_context(
                open_server_credentials(authority, require_client_certificate=not is_enrolment, hosts=(host,))
            )
            servicer = IdentityServicer(authority, tokens, "default", enrolment=is_enrolment, lifetime=lifetime)
            service = Service(
                identity_service_pb2.DESCRIPTOR.services_by_name["IdentityService"],
                lambda server: identity_service_pb2_grpc.add_IdentityServiceServicer_to_server(servicer, server),
            )
            address = str(Address(host, 0))
            settings = ServerSettings("control-plane", address, credentials=tls.credentials, drain_grace=1.0)
            handlers = () if is_enrolment else (ads.handler,)
            services = [service] if is_enrolment else [service, gateway_service(gateways)]
            return await stack.enter_async_context(open_server(settings, services, generic_handlers=handlers))

        enrolment = await serve(is_enrolment=True)
        control = await serve(is_enrolment=False)
        for work in (ads.run(), follow(), registry.check_for_ever(), keeper.run(leads=lambda: True)):
            await stack.enter_async_context(open_background(work))
        yield ControlPlane(
            state_dir,
            authority,
            tokens,
            store,
            registry,
            enrolment=Address(host, enrolment.port),
            control=Address(host, control.port),
            ads=ads,
        )


class Echo:
    """The echo server through some channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.say = channel.unary_unary("/echo.v1.Echo/Say")
        self.count = channel.unary_stream("/echo.v1.Echo/Count")


@pytest.fixture(autouse=True)
def _logs() -> None:
    configure_logs("test", level="info")


@pytest.fixture
def start_control_plane(short_dir: Path) -> Callable[..., AbstractAsyncContextManager[ControlPlane]]:
    def start(
        *, lifetime: timedelta = timedelta(hours=1), host: str = "127.0.0.1"
    ) -> AbstractAsyncContextManager[ControlPlane]:
        return open_control_plane(short_dir, lifetime=lifetime, host=host)

    return start


@pytest.fixture
async def control_plane(
    start_control_plane: Callable[..., AbstractAsyncContextManager[ControlPlane]],
) -> AsyncIterator[ControlPlane]:
    async with start_control_plane() as opened:
        yield opened


@pytest.fixture
def open_echo() -> Callable[..., AbstractAsyncContextManager[Echo]]:
    """The echo server at a target, under an authority."""

    @asynccontextmanager
    async def open_it(target: str, authority: str | None = None) -> AsyncIterator[Echo]:
        async with open_target(target, authority=authority) as channel:
            yield Echo(channel)

    return open_it


@pytest.fixture
def eventually() -> Callable[[Callable[[], Any]], Awaitable[None]]:
    """Waits until a condition holds, for at most 10 seconds."""

    async def wait(condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.01)

    return wait


@pytest.fixture
def echo_command() -> tuple[str, ...]:
    return ECHO


@pytest.fixture
def obedient_command() -> tuple[str, ...]:
    return (*ECHO, "--ends-streams")


@pytest.fixture
def stubborn_command() -> tuple[str, ...]:
    return (*ECHO, "--stubborn")


@pytest.fixture
def unhealthy_command() -> tuple[str, ...]:
    return (*ECHO, "--no-health")


@pytest.fixture
def env_command() -> tuple[str, ...]:
    return (*ECHO, "--tell-env")


@pytest.fixture
def caller_command() -> tuple[str, ...]:
    return (sys.executable, str(SERVERS / "who.py"))


@pytest.fixture
def processes_of() -> Callable[[Path], list[str]]:
    """The command lines of all processes that have something to do with a folder."""

    def look(folder: Path) -> list[str]:
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                text = (entry / "cmdline").read_bytes() + b"\0" + (entry / "environ").read_bytes()
            except OSError:
                continue
            if str(folder).encode() in text:
                found.append(text.partition(b"\0\0")[0].replace(b"\0", b" ").decode(errors="replace"))
        return found

    return look


class Held:
    """A member in a task of its own, so that a test can let it go and look on."""

    def __init__(self, opened: AbstractAsyncContextManager[Member]) -> None:
        self._opened = opened
        self._ready: asyncio.Future[Member] = asyncio.get_running_loop().create_future()
        self._leaving = asyncio.Event()
        self._task = asyncio.create_task(self._hold())

    async def member(self) -> Member:
        """The member, once it is in the mesh."""
        await asyncio.wait((self._ready, self._task), return_when=asyncio.FIRST_COMPLETED)
        if not self._ready.done():
            self._task.result()
        return self._ready.result()

    def leave(self) -> None:
        """Let it go; it takes its time."""
        self._leaving.set()

    @property
    def is_gone(self) -> bool:
        return self._task.done()

    async def gone(self) -> None:
        """Wait until nothing of it is left."""
        self.leave()
        async with asyncio.timeout(30):
            await self._task

    async def _hold(self) -> None:
        async with self._opened as member:
            self._ready.set_result(member)
            await self._leaving.wait()


@pytest.fixture
async def hold() -> AsyncIterator[Callable[[AbstractAsyncContextManager[Member]], Held]]:
    held: list[Held] = []

    def start(opened: AbstractAsyncContextManager[Member]) -> Held:
        held.append(Held(opened))
        return held[-1]

    yield start
    for one in held:
        await one.gone()


@pytest.fixture
def open_gateway(control_plane: ControlPlane) -> Callable[[], AbstractAsyncContextManager[Address]]:
    """The gateway and an echo service behind it; yields the address of the edge."""

    @asynccontextmanager
    async def open_it() -> AsyncIterator[Address]:
        control_plane.declare("gateway", "*", kind="gateway")
        gateway = control_plane.open(
            "gateway",
            kind="gateway",
            command=(sys.executable, "-m", "services.gateway"),
            edge=Address("127.0.0.1", 0),
            deregister_wait=0.05,
        )
        async with control_plane.open("echo", deregister_wait=0.05), gateway as member:
            await control_plane.wait_healthy("echo")
            assert member.spec.edge is not None
            yield member.spec.edge

    return open_it
