"""One way to serve: health, reflection, limits, and a drain that fails no call."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from opentelemetry.instrumentation.grpc import aio_server_interceptor

from mesh.errors import AlreadyExists, InvalidInput
from mesh.rpc.interceptor import CallInterceptor
from mesh.telemetry import get_logger, is_tracing

_log = get_logger(__name__)

_LONGEST_SOCKET_PATH = 100
"""Bytes; the kernel takes 107, and Envoy appends to some paths."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How to serve. `listen` is "unix:PATH" or "HOST:PORT"; deadlines and grace are seconds.

    `default_deadline` holds for unary calls that come without a deadline; streams have none. Calls beyond
    `max_concurrent` are refused with RESOURCE_EXHAUSTED; health and reflection are exempt.
    """

    service: str
    listen: str
    default_deadline: float = 60.0
    max_concurrent: int = 256
    max_message_bytes: int = 16 << 20
    drain_grace: float = 30.0
    credentials: grpc.ServerCredentials | None = None
    reflection: bool = True


@dataclass(frozen=True, slots=True)
class Service:
    """A contract and how to put its servicer on a server."""

    descriptor: ServiceDescriptor
    register: Callable[[grpc.aio.Server], None]


class _Health(health.aio.HealthServicer):
    """Health whose watches end when the server drains; the stock one would hold the drain up for all of its grace."""

    def __init__(self, draining: asyncio.Event) -> None:
        super().__init__()
        self._draining = draining

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext) -> None:
        watching = asyncio.ensure_future(super().Watch(request, context))
        draining = asyncio.ensure_future(self._draining.wait())
        try:
            await asyncio.wait((watching, draining), return_when=asyncio.FIRST_COMPLETED)
        finally:
            draining.cancel()
            watching.cancel()
        if self._draining.is_set():
            await context.write(health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING))


class Server:
    """A running server. `draining` is set when it begins to stop: streams end themselves then. `port` is 0 for unix."""

    def __init__(self, names: tuple[str, ...], port: int, interceptor: CallInterceptor) -> None:
        self.port = port
        self.draining = asyncio.Event()
        self.health = _Health(self.draining)
        self._names = names
        self._interceptor = interceptor

    @property
    def in_flight(self) -> int:
        """Calls that are running, probes left out."""
        return self._interceptor.in_flight

    async def set_serving(self, is_serving: bool, service: str | None = None) -> None:
        """Set the health of one service by its full name, or of all and of the server ("") when `service` is None."""
        states = health_pb2.HealthCheckResponse
        state = states.SERVING if is_serving and not self.draining.is_set() else states.NOT_SERVING
        for name in self._names if service is None else (service,):
            await self.health.set(name, state)


@asynccontextmanager
async def open_server(
    settings: ServerSettings,
    services: Sequence[Service],
    *,
    generic_handlers: Sequence[grpc.GenericRpcHandler] = (),
) -> AsyncIterator[Server]:
    """Serve until the context ends; then drain: NOT_SERVING, `draining`, no new calls, up to `drain_grace` for the rest.

    The server is bound and started on entry and NOT_SERVING until `set_serving(True)`. Raises AlreadyExists when the
    address is taken, InvalidInput when it is none.
    """
    interceptor = CallInterceptor(
        settings.service, default_deadline=settings.default_deadline, max_concurrent=settings.max_concurrent
    )
    grpc_server = grpc.aio.server(
        interceptors=[*([aio_server_interceptor()] if is_tracing() else []), interceptor],
        options=[
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.max_send_message_length", settings.max_message_bytes),
            ("grpc.so_reuseport", 0),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ],
    )
    names = (*(service.descriptor.full_name for service in services), "")
    for service in services:
        service.register(grpc_server)
    if generic_handlers:
        grpc_server.add_generic_rpc_handlers(tuple(generic_handlers))
    server = Server(names, 0, interceptor)
    health_pb2_grpc.add_HealthServicer_to_server(server.health, grpc_server)
    if settings.reflection:
        shown = (*names[:-1], health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(shown, grpc_server)
    path = _socket_path(settings.listen)
    server.port = _bind(grpc_server, settings, path)
    await server.set_serving(False)
    await grpc_server.start()
    if path is not None:
        path.chmod(0o600)
    try:
        yield server
    finally:
        await server.set_serving(False)
        server.draining.set()
        _log.debug("server_draining", listen=settings.listen, in_flight=server.in_flight)
        await grpc_server.stop(settings.drain_grace)
        if path is not None:
            path.unlink(missing_ok=True)


def _bind(server: grpc.aio.Server, settings: ServerSettings, path: Path | None) -> int:
    if path is not None:
        _free_socket(path)
    # gRPC creates the socket file with the umask; nobody else may open it, not even for a moment.
    previous = os.umask(0o177)
    try:
        if settings.credentials is None:
            port = server.add_insecure_port(settings.listen)
        else:
            port = server.add_secure_port(settings.listen, settings.credentials)
    except RuntimeError as err:
        raise AlreadyExists(
            f"{settings.listen} cannot be bound; it is taken, or is no address of this machine.",
            reason="ADDRESS_TAKEN",
            field="listen",
            service=settings.service,
            fix="Stop what listens there, or choose another address.",
        ) from err
    finally:
        os.umask(previous)
    return 0 if path is not None else port


def _socket_path(listen: str) -> Path | None:
    if not listen.startswith("unix:"):
        return None
    path = Path(listen.removeprefix("unix:"))
    if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH:
        raise InvalidInput(
            f"The socket path {path} has more than {_LONGEST_SOCKET_PATH} bytes.",
            field="listen",
            fix="Use a shorter state directory, for example MESH_STATE_DIR=/tmp/mesh.",
        )
    return path


def _free_socket(path: Path) -> None:
    """Remove a socket file that nobody serves any more; raises AlreadyExists when somebody does."""
    if not path.exists():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            with suppress(FileNotFoundError):
                path.unlink()
            return
    raise AlreadyExists(
        f"Another program serves {path}.", reason="ADDRESS_TAKEN", field="listen", fix="Stop it, or use another path."
    )
