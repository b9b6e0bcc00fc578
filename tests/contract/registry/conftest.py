import asyncio
import itertools
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from agentmesh.registry.v1 import registry_service_pb2, registry_service_pb2_grpc
from benchmarks.ports import free_ports
from mesh.discovery import (
    ConsulAgentSettings,
    ConsulRegistry,
    HealthCheck,
    Registry,
    RegistrySnapshot,
    find_consul,
    open_consul_agent,
)
from mesh.discovery.embedded import (
    Callers,
    EmbeddedRegistry,
    RegistryServicer,
    open_embedded_registry,
    open_registry_client,
    probe_opener,
)
from mesh.model import Address, Instance
from mesh.rpc import ServerSettings, Service, open_server

ROOT = Path(__file__).resolve().parents[3]
BOUND = 15.0


@dataclass(frozen=True)
class Registries:
    """One implementation: a registry that works, and one of which nobody is there."""

    working: Registry
    unreachable: Registry


@pytest_asyncio.fixture(scope="session", loop_scope="session", params=["consul", "embedded", "embedded-local"])
async def registries(request: pytest.FixtureRequest) -> AsyncIterator[Registries]:
    opener = {"consul": _open_consul, "embedded": _open_embedded, "embedded-local": _open_embedded_local}
    async with opener[request.param]() as opened:
        yield opened


@asynccontextmanager
async def _open_consul() -> AsyncIterator[Registries]:
    with tempfile.TemporaryDirectory(prefix="am-", dir="/tmp") as folder:
        settings = ConsulAgentSettings(
            binary=find_consul(ROOT / ".tools", progress=print),
            data_dir=Path(folder) / "consul",
            http=Address("127.0.0.1", free_ports(1)[0]),
            rpc_port=free_ports(1)[0],
            serf_port=free_ports(1)[0],
        )
        async with open_consul_agent(settings) as agent:
            yield Registries(ConsulRegistry(agent.address), ConsulRegistry(Address("127.0.0.1", free_ports(1)[0])))


class NoIdentity:
    """Of no use to the checks of this suite, which are in the clear."""

    current = None

    def channel_credentials(self) -> grpc.ChannelCredentials:
        raise AssertionError("No check of this suite is over TLS.")


@asynccontextmanager
async def _open_own(folder: Path) -> AsyncIterator[EmbeddedRegistry]:
    async with open_embedded_registry(folder / "registry.db", open_probe=probe_opener(NoIdentity())) as registry:
        yield registry


@asynccontextmanager
async def _open_embedded() -> AsyncIterator[Registries]:
    """Over the socket of operators, who may register instances of all services."""
    with tempfile.TemporaryDirectory(prefix="am-", dir="/tmp") as name:
        folder = Path(name)
        async with AsyncExitStack() as stack:
            own = await stack.enter_async_context(_open_own(folder))
            servicer = RegistryServicer(own, Callers(), draining=asyncio.Event())
            service = Service(
                registry_service_pb2.DESCRIPTOR.services_by_name["RegistryService"],
                lambda server: registry_service_pb2_grpc.add_RegistryServiceServicer_to_server(servicer, server),
            )
            target = f"unix:{folder}/control.sock"
            settings = ServerSettings(service="control-plane", listen=target, drain_grace=0.1)
            await stack.enter_async_context(open_server(settings, [service]))
            yield Registries(
                await stack.enter_async_context(open_registry_client(target)),
                await stack.enter_async_context(open_registry_client(f"unix:{folder}/nobody.sock")),
            )


@asynccontextmanager
async def _open_embedded_local() -> AsyncIterator[Registries]:
    """In the process that keeps it, where it cannot be away."""
    with tempfile.TemporaryDirectory(prefix="am-", dir="/tmp") as name:
        async with _open_own(Path(name)) as own, open_registry_client(f"unix:{name}/nobody.sock") as nobody:
            yield Registries(own, nobody)


@pytest.fixture
def registry(registries: Registries) -> Registry:
    return registries.working


@pytest.fixture
def unreachable(registries: Registries) -> Registry:
    return registries.unreachable


@dataclass
class Backend:
    """A gRPC server that answers health checks."""

    server: grpc.aio.Server
    servicer: HealthServicer
    address: Address

    async def set_serving(self, is_serving: bool) -> None:
        status = health_pb2.HealthCheckResponse
        await self.servicer.set("", status.SERVING if is_serving else status.NOT_SERVING)


@pytest_asyncio.fixture(loop_scope="session")
async def open_backend() -> AsyncIterator[Callable[[], Awaitable[Backend]]]:
    async with AsyncExitStack() as stack:

        async def open_one() -> Backend:
            server, servicer = grpc.aio.server(), HealthServicer()
            health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            stack.push_async_callback(server.stop, None)
            backend = Backend(server, servicer, Address("127.0.0.1", port))
            await backend.set_serving(True)
            return backend

        yield open_one


_numbers = itertools.count(1)


@pytest.fixture
def new_instance() -> Callable[..., Instance]:
    """Make an instance of a service that no other test uses."""

    def make(address: Address | None = None, **facts: object) -> Instance:
        number = next(_numbers)
        at = address or Address("127.0.0.1", 9)
        defaults: dict[str, object] = {"service": f"contract-{number}", "id": f"contract-{number}-a"}
        return Instance(address=at.host, port=at.port, **(defaults | facts))  # type: ignore[arg-type]

    return make


@pytest.fixture
def check_of() -> Callable[[Instance], HealthCheck]:
    return lambda instance: HealthCheck(Address(instance.address, instance.port), use_tls=False)


WaitFor = Callable[[AsyncIterator[RegistrySnapshot], Callable[[RegistrySnapshot], bool]], Awaitable[RegistrySnapshot]]


@pytest.fixture
def wait_for() -> WaitFor:
    """Read a watch until a snapshot fits, within a bound."""

    async def wait(
        watch: AsyncIterator[RegistrySnapshot], fits: Callable[[RegistrySnapshot], bool]
    ) -> RegistrySnapshot:
        async with asyncio.timeout(BOUND):
            async for snapshot in watch:
                if fits(snapshot):
                    return snapshot
        raise AssertionError("The watch ended.")

    return wait


@pytest_asyncio.fixture(loop_scope="session")
async def open_watch() -> AsyncIterator[Callable[[Registry], AsyncIterator[RegistrySnapshot]]]:
    """Open watches that are closed at the end of the test."""
    opened: list[AsyncIterator[RegistrySnapshot]] = []

    def open_one(registry: Registry) -> AsyncIterator[RegistrySnapshot]:
        opened.append(registry.watch())
        return opened[-1]

    yield open_one
    for watch in opened:
        await watch.aclose()  # type: ignore[attr-defined]
