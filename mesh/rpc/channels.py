"""One way to call: channels that carry correlation, trace, deadlines and the mark of what may be retried."""

import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import MethodOptions
from opentelemetry import propagate
from opentelemetry.instrumentation.grpc import aio_client_interceptors

from mesh.errors import FailedPrecondition
from mesh.telemetry import correlation_id, is_tracing

DEFAULT_DEADLINE = 60.0
"""Seconds for a unary call that names no timeout."""

MAX_MESSAGE_BYTES = 16 << 20

_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_http_proxy", 0),
    # Retries are Envoy's; two layers that retry multiply.
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)
_RETRY_MARK = (("x-envoy-retry-grpc-on", "unavailable"), ("x-envoy-max-retries", "3"))

_retryable: dict[str, bool] = {}


def is_retryable(path: str) -> bool:
    """True when the contract of method "/package.Service/Method" says that it may be repeated (idempotency_level)."""
    known = _retryable.get(path)
    if known is None:
        try:
            method = descriptor_pool.Default().FindMethodByName(path.lstrip("/").replace("/", "."))
            known = method.GetOptions().idempotency_level != MethodOptions.IDEMPOTENCY_UNKNOWN
        except KeyError:
            known = False
        _retryable[path] = known
    return known


def _prepare(details: Any, *, is_unary: bool) -> grpc.aio.ClientCallDetails:
    """The call's details with correlation id, trace context, retry mark and, for unary calls, a deadline."""
    method = details.method if isinstance(details.method, str) else details.method.decode()
    metadata = grpc.aio.Metadata(*(tuple(details.metadata) if details.metadata is not None else ()))
    names = {name for name, _ in metadata}
    if "x-correlation-id" not in names:
        metadata.add("x-correlation-id", correlation_id.get() or uuid.uuid4().hex)
    if "traceparent" not in names:
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        for name, value in carrier.items():
            metadata.add(name, value)
    if is_retryable(method) and "x-envoy-retry-grpc-on" not in names:
        for name, value in _RETRY_MARK:
            metadata.add(name, value)
    timeout = DEFAULT_DEADLINE if details.timeout is None and is_unary else details.timeout
    return grpc.aio.ClientCallDetails(details.method, timeout, metadata, details.credentials, details.wait_for_ready)


_Continue = Callable[..., Awaitable[Any]]


class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: _Continue, client_call_details: Any, request: Any) -> Any:
        return await continuation(_prepare(client_call_details, is_unary=True), request)


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: _Continue, client_call_details: Any, request: Any) -> Any:
        return await continuation(_prepare(client_call_details, is_unary=False), request)


class _StreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(
        self, continuation: _Continue, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return await continuation(_prepare(client_call_details, is_unary=False), request_iterator)


class _StreamStream(grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(
        self, continuation: _Continue, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return await continuation(_prepare(client_call_details, is_unary=False), request_iterator)


def _interceptors() -> list[grpc.aio.ClientInterceptor]:
    # Spans cost time and memory on each call; without a collector nobody would see them.
    spans = aio_client_interceptors() if is_tracing() else []
    return [*spans, _UnaryUnary(), _UnaryStream(), _StreamUnary(), _StreamStream()]


@asynccontextmanager
async def open_target(
    target: str, *, authority: str | None = None, credentials: grpc.ChannelCredentials | None = None
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to any gRPC target ("unix:PATH", "HOST:PORT"). Opening does not connect; the first call does.

    With credentials, `authority` is also the DNS name that the server's certificate must have.
    """
    names = ("grpc.default_authority", *(("grpc.ssl_target_name_override",) if credentials else ()))
    options = [*_OPTIONS, *((name, authority) for name in names if authority)]
    if credentials is None:
        channel = grpc.aio.insecure_channel(target, options=options, interceptors=_interceptors())
    else:
        channel = grpc.aio.secure_channel(target, credentials, options=options, interceptors=_interceptors())
    async with channel:
        yield channel


@asynccontextmanager
async def open_channel(service: str, *, outbound: str | None = None) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a service of the mesh through the own sidecar.

    `outbound` is the target of the sidecar's outbound listener, by default that of the variable MESH_OUTBOUND. Raises
    FailedPrecondition when there is none.
    """
    target = outbound or os.environ.get("MESH_OUTBOUND") or ""
    if not target:
        raise FailedPrecondition(
            "This program has no sidecar.",
            reason="NO_SIDECAR",
            field="MESH_OUTBOUND",
            fix="Start it with `meshctl run`, or set MESH_OUTBOUND to the sidecar's outbound socket.",
        )
    async with open_target(target, authority=f"{service}.mesh") as channel:
        yield channel
