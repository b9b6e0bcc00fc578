import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from agentmesh.registry.v1 import registry_service_pb2, registry_service_pb2_grpc
from mesh.discovery import HealthCheck
from mesh.discovery.embedded import (
    Callers,
    EmbeddedRegistry,
    RegistryClient,
    RegistryServicer,
    open_embedded_registry,
    open_registry_client,
    probe_opener,
)
from mesh.identity import CertificateAuthority, ClientTls, open_server_credentials
from mesh.identity.svid import create_key
from mesh.model import Address, Instance, SpiffeId
from mesh.rpc import Server, ServerSettings, Service, open_server

TRUST_DOMAIN = "test.local"


@dataclass
class Backend:
    """A server that shows the certificate of a service, and what it is told to be."""

    instance: Instance
    check: HealthCheck
    callers: list[str]


class NotingHealth(HealthServicer):
    """Health that notes who asks."""

    def __init__(self, callers: list[str]) -> None:
        super().__init__()
        self._callers = callers

    async def Check(self, request, context):
        self._callers += [uri.decode() for uri in context.auth_context().get("peer_spiffe_id", ())]
        return await super().Check(request, context)


@dataclass
class Mesh:
    """An authority, and a registry that is served to members and to operators."""

    authority: CertificateAuthority
    registry: EmbeddedRegistry
    servers: dict[str, Server]
    folder: Path
    draining: asyncio.Event

    def identity(self, service: str, *, namespace: str = "default") -> ClientTls:
        return ClientTls(self.authority, SpiffeId(TRUST_DOMAIN, namespace, service))

    def member(self, service: str, **identity: str) -> AbstractAsyncContextManager[RegistryClient]:
        target = f"127.0.0.1:{self.servers['members'].port}"
        return open_registry_client(target, identity=self.identity(service, **identity))

    def operator(self) -> AbstractAsyncContextManager[RegistryClient]:
        return open_registry_client(f"unix:{self.folder}/admin.sock")

    @asynccontextmanager
    async def backend(self, service: str, *, shows: str = "", instance_id: str = "") -> AsyncIterator[Backend]:
        """A server of `service` that shows the certificate of `shows`, its own by default."""
        key, csr = create_key()
        name = shows or service
        signed = self.authority.sign(
            csr, SpiffeId(TRUST_DOMAIN, "default", name), reason="test", dns_names=(f"{name}.mesh",)
        )
        credentials = grpc.ssl_server_credentials(
            [(key.encode(), signed.chain_pem.encode())], self.authority.bundle_pem.encode(), True
        )
        callers: list[str] = []
        server, servicer = grpc.aio.server(), NotingHealth(callers)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        port = server.add_secure_port("127.0.0.1:0", credentials)
        await server.start()
        try:
            instance = Instance(service, instance_id or f"{service}-1", "127.0.0.1", port)
            yield Backend(instance, HealthCheck(Address("127.0.0.1", port), use_tls=True), callers)
        finally:
            await server.stop(None)

    async def until(self, fits: Callable[[dict[str, Instance]], bool]) -> None:
        async with asyncio.timeout(10):
            async for snapshot in self.registry.watch():
                if fits({instance.id: instance for found in snapshot.services.values() for instance in found}):
                    return


@pytest_asyncio.fixture
async def mesh(short_dir: Path) -> AsyncIterator[Mesh]:
    authority = CertificateAuthority.open(short_dir / "ca", trust_domain=TRUST_DOMAIN)
    async with AsyncExitStack() as stack:
        checker = ClientTls(authority, SpiffeId(TRUST_DOMAIN, "default", "consul"))
        registry = await stack.enter_async_context(
            open_embedded_registry(short_dir / "registry.db", open_probe=probe_opener(checker))
        )
        draining = asyncio.Event()
        tls = await stack.enter_async_context(open_server_credentials(authority, require_client_certificate=True))

        def service_for(callers: Callers) -> Service:
            servicer = RegistryServicer(registry, callers, draining=draining)
            return Service(
                registry_service_pb2.DESCRIPTOR.services_by_name["RegistryService"],
                lambda server: registry_service_pb2_grpc.add_RegistryServiceServicer_to_server(servicer, server),
            )

        members = ServerSettings("control-plane", "127.0.0.1:0", credentials=tls.credentials, drain_grace=2.0)
        operators = ServerSettings("control-plane", f"unix:{short_dir}/admin.sock", drain_grace=2.0)
        servers = {
            "members": await stack.enter_async_context(
                open_server(members, [service_for(Callers(TRUST_DOMAIN, "default"))])
            ),
            "operators": await stack.enter_async_context(open_server(operators, [service_for(Callers())])),
        }
        yield Mesh(authority, registry, servers, short_dir, draining)
