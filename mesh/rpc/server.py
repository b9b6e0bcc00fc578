"""One way to serve: health, reflection, limits, and a drain that fails no call."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2_grpc

from mesh.rpc import health
from mesh.rpc.interceptor import CallInterceptor
from mesh.rpc.lasting import LastingServer
from mesh.rpc.listen import socket_path
from mesh.rpc.tracing import build_server_interceptors
from mesh.runtime import open_background
from mesh.telemetry import get_logger

_CLEANUP_SECONDS = 5.0

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How to serve. `listen` is "unix:PATH" or "HOST:PORT"; deadlines and grace are seconds.

    `credentials` may be what makes them: those of which gRPC fetches the certificate serve one server only, and there
    may have to be another one.

    `default_deadline` holds for unary calls that come without a deadline; streams have none. Calls beyond
    `max_concurrent` are refused with RESOURCE_EXHAUSTED; health and reflection are exempt. Reflection tells of the
    services that are served and of `described`, full names of services that are reached through this one.
    Connections older than `max_connection_age`, give or take a tenth, take no new calls: whoever has more of these
    connects anew, with the certificate that it has by then. Calls that run go on.
    """

    service: str
    listen: str
    default_deadline: float = 60.0
    max_concurrent: int = 256
    max_message_bytes: int = 16 << 20
    drain_grace: float = 30.0
    credentials: grpc.ServerCredentials | Callable[[], grpc.ServerCredentials] | None = None
    reflection: bool = True
    described: tuple[str, ...] = ()
    max_connection_age: float | None = None


@dataclass(frozen=True, slots=True)
class Service:
    """A contract and how to put its servicer on a server."""

    descriptor: ServiceDescriptor
    register: Callable[[grpc.aio.Server], None]


class Server:
    """A running server. `draining` is set when it begins to stop: streams end themselves then. `port` is 0 for unix."""

    def __init__(
        self, names: tuple[str, ...], interceptor: CallInterceptor, health_of: health.HealthOf | None = None
    ) -> None:
        self.port = 0
        self.draining = asyncio.Event()
        self._names = (*names, "")
        self._interceptor = interceptor
        self._health = health.HealthServicer(self._names, self.draining, health_of)

    @property
    def in_flight(self) -> int:
        """Calls that are running, probes left out."""
        return self._interceptor.in_flight

    async def set_serving(self, is_serving: bool, service: str | None = None) -> None:
        """Set the health of one service by its full name, or of all and of the server ("") when `service` is None.

        While the server drains it stays NOT_SERVING. Raises KeyError for a service that is not served here.
        """
        for name in self._names if service is None else (service,):
            self._health.set(name, is_serving=is_serving and not self.draining.is_set())

    def _drain(self) -> None:
        self.draining.set()
        for name in self._names:
            self._health.set(name, is_serving=False)
        self._health.wake()


@asynccontextmanager
async def open_server(
    settings: ServerSettings,
    services: Sequence[Service],
    *,
    generic_handlers: Sequence[grpc.GenericRpcHandler] = (),
    health_of: health.HealthOf | None = None,
) -> AsyncIterator[Server]:
    """Serve until the context ends, then drain: NOT_SERVING, `draining`, no new calls, up to `drain_grace` for others.

    The server is bound and started on entry and NOT_SERVING until `set_serving(True)`. Raises AlreadyExists when the
    address is taken, InvalidInput when it is none. `health_of` answers health checks by names that are not served here
    and raises NotFound for what it does not know. What handlers need must outlive this context: open it before.
    """
    interceptor = CallInterceptor(
        settings.service,
        default_deadline=settings.default_deadline,
        max_concurrent=settings.max_concurrent,
        is_behind_sidecar=socket_path(settings.listen) is not None,
    )
    names = tuple(service.descriptor.full_name for service in services)
    server = Server(names, interceptor, health_of)

    def build() -> grpc.aio.Server:
        # OpenTelemetry's interceptor outside of ours, so that its span is there when ours logs.
        interceptors = [*build_server_interceptors(), interceptor]
        built = grpc.aio.server(interceptors=interceptors, options=_options(settings))
        for service in services:
            service.register(built)
        if generic_handlers:
            built.add_generic_rpc_handlers(tuple(generic_handlers))
        health_pb2_grpc.add_HealthServicer_to_server(server._health, built)
        if settings.reflection:
            # Imported here: a server without it need not pay its memory.
            from mesh.rpc.reflection import add_reflection

            add_reflection(built, (*names, *settings.described, health.SERVICE_NAME), server.draining)
        return built

    lasting = LastingServer(build, settings.listen, settings.credentials)
    server.port = await lasting.start()
    try:
        async with open_background(lasting.keep()):
            yield server
    finally:
        server._drain()
        _log.debug("server_draining", listen=settings.listen, in_flight=server.in_flight)
        await lasting.stop(settings.drain_grace)
        # gRPC has told the callers of those that it has cut, but does not wait for their handlers to clean up.
        if not await interceptor.wait_idle(_CLEANUP_SECONDS):
            _log.warning("handlers_left", listen=settings.listen, in_flight=server.in_flight)


def _options(settings: ServerSettings) -> list[tuple[str, int]]:
    age = settings.max_connection_age
    return [
        *([("grpc.max_connection_age_ms", round(age * 1000))] if age is not None else []),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        # By default gRPC shares a port with whoever asks, and half of the calls go elsewhere.
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # What clients of ours may ask for without being sent away.
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
