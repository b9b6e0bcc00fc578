"""One health check over gRPC, as the registry makes it of an instance."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Protocol

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh.discovery.embedded.checker import OpenProbe, Probe
from mesh.discovery.embedded.record import Record

MAX_OUTPUT = 300

_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    # A check that finds no connection fails at once; the next one must not meet a long pause of gRPC's.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.max_receive_message_length", 64 << 10),
)


class ChannelIdentity(Protocol):
    """Who this program shows itself as in mutual TLS. `current` is another object after each renewal."""

    @property
    def current(self) -> object:
        """The newest certificate, whatever its form."""
        ...

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Credentials with the newest certificate."""
        ...


def probe_opener(identity: ChannelIdentity) -> OpenProbe:
    """Probes that show `identity` where the check wants TLS, and that take none but a certificate of the service."""

    @asynccontextmanager
    async def open_probe(record: Record) -> AsyncIterator[Probe]:
        async with AsyncExitStack() as stack:
            shown: object = None
            stub: Any = None

            async def probe() -> str:
                nonlocal shown, stub
                # A connection that stays open outlives its certificate, but one that breaks could not be made again.
                if stub is None or (record.check.use_tls and identity.current is not shown):
                    await stack.aclose()
                    shown = identity.current
                    channel = await stack.enter_async_context(_open_channel(record, identity.channel_credentials))
                    stub = health_pb2_grpc.HealthStub(channel)
                return await _ask(stub, record)

            yield probe

    return open_probe


def _open_channel(record: Record, credentials: Callable[[], grpc.ChannelCredentials]) -> grpc.aio.Channel:
    # With the scheme no host can pass for another kind of target, such as the path of a socket.
    target = f"dns:///{record.check.target}"
    # The name that the certificate must hold.
    options = [*_OPTIONS, ("grpc.default_authority", f"{record.instance.service}.mesh")]
    if record.check.use_tls:
        return grpc.aio.secure_channel(target, credentials(), options=options)
    return grpc.aio.insecure_channel(target, options=options)


async def _ask(stub: Any, record: Record) -> str:
    where = f"Health/Check at {record.check.target}"
    try:
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=record.check.timeout)
    except grpc.aio.AioRpcError as err:
        detail = " ".join((err.details() or "").split())
        return f"{where} failed: {err.code().name} {detail}"[:MAX_OUTPUT].rstrip()
    if answer.status == health_pb2.HealthCheckResponse.SERVING:
        return ""
    return f"{where} answered {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}."
