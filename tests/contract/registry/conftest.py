import asyncio
import itertools
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from mesh.discovery import (
    ConsulAgentSettings,
    ConsulRegistry,
    HealthCheck,
    Registry,
    RegistrySnapshot,
    find_consul,
    open_consul_agent,
)
from mesh.model import Address, Instance

ROOT = Path(__file__).resolve().parents[3]
BOUND = 15.0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class Registries:
    """One implementation: a registry that works, and one of which nobody is there."""

    working: Registry
    unreachable: Registry


@pytest_asyncio.fixture(scope="session", loop_scope="session", params=["consul"])
async def registries(request: pytest.FixtureRequest) -> AsyncIterator[Registries]:
    assert request.param == "consul"
    with tempfile.TemporaryDirectory(prefix="am-", dir="/tmp") as folder:
        settings = ConsulAgentSettings(
            binary=find_consul(ROOT / ".tools", progress=print),
            data_dir=Path(folder) / "consul",
            http=Address("127.0.0.1", _free_port()),
            rpc_port=_free_port(),
            serf_port=_free_port(),
        )
        async with open_consul_agent(settings) as agent:
            yield Registries(ConsulRegistry(agent.address), ConsulRegistry(Address("127.0.0.1", _free_port())))


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
