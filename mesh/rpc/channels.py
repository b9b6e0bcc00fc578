"""One way to call: channels that carry correlation, trace, deadlines and the mark of what may be retried.

    open_channel(NAME) ──> own sidecar's unix socket, authority NAME.mesh ──> any healthy instance of NAME

A wrapper around the channel and not client interceptors: those cost a task per call, put each written message of a
stream through a queue, and hide the call's own methods.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from mesh.errors import FailedPrecondition
from mesh.model import check_service_name
from mesh.rpc.context import USER_TOKEN, current_call, current_user
from mesh.rpc.retry import RETRY_MARK, is_retryable
from mesh.rpc.tracing import build_client_interceptors
from mesh.telemetry import correlation_id, is_tracing

DEFAULT_DEADLINE = 60.0
"""Seconds for a unary call that names no timeout."""

MAX_MESSAGE_BYTES = 16 << 20

SELECTOR = "x-mesh-service"
"""The header by which a client at the edge names the service that it wants."""

_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.enable_http_proxy", 0),
    # Retries are Envoy's, see mesh.rpc.retry.
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)

# Not on a unix socket: it closes when its process is gone, and a server with gRPC's defaults, such as somebody's
# application, ends quiet connections that are pinged more often than every five minutes.
_KEEPALIVE: tuple[tuple[str, Any], ...] = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
)

_propagator = TraceContextTextMapPropagator()


@dataclass(frozen=True, slots=True)
class Way:
    """A way into the mesh: a target, with TLS where there are credentials, and what each call carries on it."""

    target: str
    credentials: grpc.ChannelCredentials | None = None
    metadata: tuple[tuple[str, str], ...] = field(default=(), repr=False)


@asynccontextmanager
async def open_channel(
    service: str, *, outbound: str | Way | None = None, default_deadline: float = DEFAULT_DEADLINE
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a service of the mesh through the own sidecar.

    `outbound` is the target of the sidecar's outbound listener, by default that of the variable MESH_OUTBOUND, or the
    way through an edge. Raises FailedPrecondition when there is none, and InvalidInput for what is no service name.
    Opening does not connect.
    """
    check_service_name(service)
    way = outbound if isinstance(outbound, Way) else Way(outbound or os.environ.get("MESH_OUTBOUND") or "")
    if not way.target:
        raise FailedPrecondition(
            "This program has no sidecar.",
            reason="NO_SIDECAR",
            field="MESH_OUTBOUND",
            fix="Start it with `meshctl run`, or set MESH_OUTBOUND to the sidecar's outbound socket.",
        )
    # With TLS the authority is what the certificate is for.
    has_tls = way.credentials is not None
    async with open_target(
        way.target,
        authority=None if has_tls else f"{service}.mesh",
        credentials=way.credentials,
        default_deadline=default_deadline,
        metadata=((SELECTOR, service), *way.metadata) if has_tls else way.metadata,
    ) as channel:
        yield channel


@asynccontextmanager
async def open_target(
    target: str,
    *,
    authority: str | None = None,
    credentials: grpc.ChannelCredentials | None = None,
    default_deadline: float = DEFAULT_DEADLINE,
    metadata: tuple[tuple[str, str], ...] = (),
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to any gRPC target ("unix:PATH", "HOST:PORT"), whose calls all carry `metadata`.

    Opening does not connect; the first call does.
    """
    options = [*_OPTIONS, *(() if target.startswith("unix:") else _KEEPALIVE)]
    if authority:
        options.append(("grpc.default_authority", authority))
    interceptors = build_client_interceptors()
    if credentials is None:
        channel = grpc.aio.insecure_channel(target, options=options, interceptors=interceptors)
    else:
        channel = grpc.aio.secure_channel(target, credentials, options=options, interceptors=interceptors)
    async with MeshChannel(channel, default_deadline, metadata) as mesh_channel:
        yield mesh_channel


class MeshChannel(grpc.aio.Channel):
    """A channel whose calls carry what the mesh wants to be carried; all else is that of the channel inside."""

    def __init__(
        self, inner: grpc.aio.Channel, default_deadline: float, metadata: tuple[tuple[str, str], ...] = ()
    ) -> None:
        self._inner = inner
        self._default_deadline = default_deadline
        self._metadata = metadata

    async def __aenter__(self) -> "MeshChannel":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._inner.close()

    async def close(self, grace: float | None = None) -> None:
        await self._inner.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._inner.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._inner.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._inner.channel_ready()

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return _Calls(self._inner.unary_unary(method, *args, **kwargs), method, self._default_deadline, self._metadata)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return _Calls(self._inner.unary_stream(method, *args, **kwargs), method, None, self._metadata)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return _Calls(self._inner.stream_unary(method, *args, **kwargs), method, None, self._metadata)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return _Calls(self._inner.stream_stream(method, *args, **kwargs), method, None, self._metadata)


class _Calls:
    """Makes the calls of one method."""

    __slots__ = ("_always", "_deadline", "_injects_trace", "_inner")

    def __init__(
        self, inner: Any, method: str, deadline: float | None, metadata: tuple[tuple[str, str], ...] = ()
    ) -> None:
        self._inner = inner
        self._deadline = deadline
        self._always = (*metadata, *(RETRY_MARK if is_retryable(method) else ()))
        # With spans, OpenTelemetry's interceptors inside put in the context of their own span.
        self._injects_trace = not is_tracing()

    def __call__(self, request: Any = None, timeout: float | None = None, metadata: Any = None, **kwargs: Any) -> Any:
        given = tuple(metadata or ())
        names = {name for name, _ in given}
        added = [pair for pair in self._always if pair[0] not in names]
        context = current_call.get()
        user = context.user_token if context is not None else current_user.get()
        if user and USER_TOKEN not in names:
            # What is called for a user is called on the user's behalf, however far it goes.
            added.append((USER_TOKEN, user))
        identifier = correlation_id.get()
        if identifier and "x-correlation-id" not in names:
            added.append(("x-correlation-id", identifier))
        if self._injects_trace and "traceparent" not in names:
            carrier: dict[str, str] = {}
            _propagator.inject(carrier)
            added.extend(carrier.items())
        return self._inner(request, timeout=self._timeout(timeout), metadata=(*given, *added), **kwargs)

    def _timeout(self, given: float | None) -> float | None:
        """The seconds that are given, else the default; in a handler no more than its own call has left.

        When nothing is left the handler has been ended, and who still calls is cleaning up.
        """
        wished = self._deadline if given is None else given
        context = current_call.get()
        left = None if context is None else context.deadline
        if not left:
            return wished
        return left if wished is None else min(wished, left)
