"""A control plane's identity ports on loopback, with real TLS, and workloads that want to join."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from agentmesh.identity.v1 import identity_service_pb2 as pb
from agentmesh.identity.v1 import identity_service_pb2_grpc as pb_grpc
from benchmarks.ports import free_ports
from mesh.identity import (
    CertificateAuthority,
    Identity,
    IdentityServicer,
    IdentitySettings,
    JoinTokens,
    ServerTls,
    open_server_credentials,
)
from mesh.identity.authority import WORKLOAD_LIFETIME
from mesh.model import Address
from mesh.rpc import ServerSettings, Service, open_server, open_target
from mesh.telemetry import configure_logs

TRUST_DOMAIN = "test.local"


class Clock:
    """The time of day, moved by `offset`."""

    def __init__(self) -> None:
        self.offset = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.offset

    def jump(self, **by: float) -> None:
        self.offset += timedelta(**by)


class RecordingServicer(IdentityServicer):
    """Remembers the requests that it got, and from which connection; may lose some answers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.requests: list[pb.SignCertificateRequest] = []
        self.connections: list[str] = []
        self.answers_to_lose = 0

    async def SignCertificate(self, request: pb.SignCertificateRequest, context: Any) -> pb.SignCertificateResponse:
        self.requests.append(request)
        response = await super().SignCertificate(request, context)
        if self.answers_to_lose:
            self.answers_to_lose -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "The answer was lost.")
        return response

    async def GetTrustBundle(self, request: pb.GetTrustBundleRequest, context: Any) -> pb.GetTrustBundleResponse:
        self.connections.append(context.peer())
        return await super().GetTrustBundle(request, context)


@dataclass
class ControlPlane:
    """The two identity ports of a control plane."""

    authority: CertificateAuthority
    tokens: JoinTokens
    enrolment: Address
    control: Address
    enrolment_servicer: RecordingServicer
    control_servicer: RecordingServicer
    tls: ServerTls

    def token(self, service: str = "a", *, lifetime: timedelta = timedelta(minutes=1)) -> str:
        return self.tokens.create(service, lifetime, fingerprint=self.authority.fingerprint)[0]

    def settings(self, folder: Path, service: str = "a") -> IdentitySettings:
        return IdentitySettings(service, folder, self.enrolment, (self.control,), TRUST_DOMAIN)


@dataclass
class TokenSource:
    """Gives tokens, and counts how often it was asked."""

    make: Callable[[], str]
    given: list[str] = field(default_factory=list)

    async def __call__(self) -> str:
        self.given.append(self.make())
        return self.given[-1]


OpenControlPlane = Callable[..., AbstractAsyncContextManager[ControlPlane]]


@pytest.fixture(autouse=True)
def _logs() -> None:
    configure_logs("test", level="debug", is_for_foreign=True)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_control_plane(tmp_path: Path) -> OpenControlPlane:
    @asynccontextmanager
    async def open_it(
        folder: Path = tmp_path / "ca",
        *,
        lifetime: timedelta = WORKLOAD_LIFETIME,
        ports: tuple[int, int] = (0, 0),
        clock: Clock | None = None,
        tls_lifetime: timedelta = WORKLOAD_LIFETIME,
    ) -> AsyncIterator[ControlPlane]:
        clock = clock or Clock()
        authority = CertificateAuthority.open(folder, trust_domain=TRUST_DOMAIN, clock=clock)
        tokens = JoinTokens.open(folder, clock=clock)
        async with contextlib.AsyncExitStack() as stack:
            servicers = []
            found = []
            for port, is_enrolment in zip(ports, (True, False), strict=True):
                tls = await stack.enter_async_context(
                    open_server_credentials(
                        authority, require_client_certificate=not is_enrolment, lifetime=tls_lifetime
                    )
                )
                servicer = RecordingServicer(authority, tokens, "default", enrolment=is_enrolment, lifetime=lifetime)
                settings = ServerSettings("control-plane", f"127.0.0.1:{port}", credentials=tls.credentials)
                server = await stack.enter_async_context(open_server(settings, [service_of(servicer)]))
                servicers.append(servicer)
                found.append((Address("127.0.0.1", server.port), tls))
            (enrolment, _), (control, tls) = found
            yield ControlPlane(authority, tokens, enrolment, control, servicers[0], servicers[1], tls)

    return open_it


def service_of(servicer: IdentityServicer) -> Service:
    return Service(
        pb.DESCRIPTOR.services_by_name["IdentityService"],
        lambda server: pb_grpc.add_IdentityServiceServicer_to_server(servicer, server),
    )


@pytest.fixture
async def control_plane(open_control_plane: OpenControlPlane) -> AsyncIterator[ControlPlane]:
    async with open_control_plane() as opened:
        yield opened


@pytest.fixture
def tokens_of() -> Callable[..., TokenSource]:
    """Tokens of a control plane, a new one each time it is asked."""
    return lambda control_plane, service="a": TokenSource(lambda: control_plane.token(service))


@pytest.fixture
def always() -> Callable[[str], TokenSource]:
    """The one token that an operator has handed over."""
    return lambda token: TokenSource(lambda: token)


@pytest.fixture
def refuse_token() -> TokenSource:
    """A source that must not be asked."""

    def fail() -> str:
        raise AssertionError("A token was asked for.")

    return TokenSource(fail)


@pytest.fixture
def open_stub() -> Callable[..., AbstractAsyncContextManager[Any]]:
    """A stub for one of the ports; `root` alone for server TLS, with `identity` mutual TLS."""

    @asynccontextmanager
    async def open_it(address: Address, *, root: str = "", identity: Identity | None = None) -> AsyncIterator[Any]:
        credentials = identity.channel_credentials() if identity else grpc.ssl_channel_credentials(root.encode())
        async with open_target(str(address), credentials=credentials, authority="control-plane.mesh") as channel:
            yield pb_grpc.IdentityServiceStub(channel)

    return open_it


@pytest.fixture
def open_raw_server() -> Callable[..., AbstractAsyncContextManager[Address]]:
    """A TCP server that does with its connections what it is told to."""

    @asynccontextmanager
    async def open_it(
        handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    ) -> AsyncIterator[Address]:
        tasks: set[asyncio.Task[Any]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await handle(reader, writer)
            writer.close()

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        try:
            yield Address(*server.sockets[0].getsockname()[:2])
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    return open_it


@pytest.fixture
def closed_port() -> Address:
    """An address at which nobody listens."""
    return Address("127.0.0.1", free_ports(1)[0])
