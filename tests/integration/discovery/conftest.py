import asyncio
import datetime
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from benchmarks.ports import free_ports
from mesh.discovery import AgentTls, ConsulAgentSettings, RegistrySnapshot, find_consul
from mesh.model import Address

ROOT = Path(__file__).resolve().parents[3]
BOUND = 20.0


@pytest.fixture
def free_address() -> Callable[[], Address]:
    return lambda: Address("127.0.0.1", free_ports(1)[0])


@pytest.fixture(scope="session")
def consul_binary() -> Path:
    return find_consul(ROOT / ".tools", progress=print)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="am-", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def new_settings(consul_binary: Path, folder: Path) -> Callable[..., ConsulAgentSettings]:
    """Settings of an agent on free ports, with the data of this test."""

    def make(**changes: object) -> ConsulAgentSettings:
        defaults: dict[str, object] = {
            "binary": consul_binary,
            "data_dir": folder / "consul",
            "http": Address("127.0.0.1", free_ports(1)[0]),
            "rpc_port": free_ports(1)[0],
            "serf_port": free_ports(1)[0],
        }
        return ConsulAgentSettings(**(defaults | changes))  # type: ignore[arg-type]

    return make


@pytest.fixture
def wait_for() -> Callable[..., Awaitable[RegistrySnapshot]]:
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


@pytest_asyncio.fixture
async def open_backend() -> AsyncIterator[Callable[..., Awaitable[Address]]]:
    """Start gRPC servers whose health is SERVING."""
    async with AsyncExitStack() as stack:

        async def open_one(credentials: grpc.ServerCredentials | None = None) -> Address:
            server, servicer = grpc.aio.server(), HealthServicer()
            health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
            port = (
                server.add_secure_port("127.0.0.1:0", credentials)
                if credentials
                else server.add_insecure_port("127.0.0.1:0")
            )
            await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
            await server.start()
            stack.push_async_callback(server.stop, None)
            return Address("127.0.0.1", port)

        yield open_one


@dataclass
class Authority:
    """A certificate authority of a test, and the key pair that it signed."""

    ca_pem: bytes
    certificate_pem: bytes
    key_pem: bytes

    def write(self, folder: Path) -> AgentTls:
        folder.mkdir(exist_ok=True)
        files = AgentTls(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
        files.ca_file.write_bytes(self.ca_pem)
        files.cert_file.write_bytes(self.certificate_pem)
        files.key_file.write_bytes(self.key_pem)
        return files

    def server_credentials(self) -> grpc.ServerCredentials:
        """Credentials of a server that speaks only to those whom this authority signed."""
        return grpc.ssl_server_credentials(
            [(self.key_pem, self.certificate_pem)], root_certificates=self.ca_pem, require_client_auth=True
        )


@pytest.fixture
def new_authority() -> Callable[[str], Authority]:
    def make(name: str) -> Authority:
        ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)

        def builder(subject: x509.Name) -> x509.CertificateBuilder:
            return (
                x509.CertificateBuilder()
                .subject_name(subject)
                .issuer_name(ca_name)
                .serial_number(x509.random_serial_number())
                .not_valid_before(now - datetime.timedelta(minutes=5))
                .not_valid_after(now + datetime.timedelta(hours=1))
            )

        ca = (
            builder(ca_name)
            .public_key(ca_key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(ca_key, hashes.SHA256())
        )
        leaf = (
            builder(x509.Name([]))
            .public_key(key.public_key())
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://test/ns/default/svc/consul")]),
                critical=True,
            )
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),
                critical=False,
            )
            .sign(ca_key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        return Authority(
            ca.public_bytes(pem),
            leaf.public_bytes(pem),
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        )

    return make
