"""Spans by opentelemetry-instrumentation-grpc, used only in processes that record them.

Measured as CPU time of client and server per unary call, which is 216 us without any of it: with no provider set,
OpenTelemetry's server interceptor adds 57 us and its client interceptors 65 us for nothing, whereas taking in the trace
context costs 14 us. So without a provider they are left out, and mesh.rpc carries the context itself.
"""

from collections.abc import Callable
from typing import Any

import grpc

from mesh.rpc.interceptor import EXEMPT
from mesh.telemetry import is_tracing


def build_server_interceptors() -> list[grpc.aio.ServerInterceptor]:
    """The interceptor that makes a span per call, when spans are recorded; it belongs outside of all others."""
    if not is_tracing():
        return []
    # Imported here: it costs some 4 MB.
    from opentelemetry import trace
    from opentelemetry.instrumentation.grpc._aio_server import OpenTelemetryAioServerInterceptor

    class WritingInterceptor(OpenTelemetryAioServerInterceptor):
        """For handlers that write their stream, as all do that leave CallInterceptor.

        The original iterates over what a streaming handler returns, and so fails with each that writes.
        """

        def _intercept_aio_server_stream(self, behavior: Any, handler_call_details: Any) -> Callable[..., Any]:
            made: Callable[..., Any] = self._intercept_aio_server_unary(behavior, handler_call_details)  # type: ignore[no-untyped-call]
            return made

    tracer = trace.get_tracer("agentmesh")
    interceptor = WritingInterceptor(  # type: ignore[no-untyped-call]
        tracer, filter_=lambda details: not details.method.startswith(EXEMPT)
    )
    return [interceptor]


def build_client_interceptors() -> list[grpc.aio.ClientInterceptor]:
    """The interceptors that make a span per call, when spans are recorded."""
    if not is_tracing():
        return []
    from opentelemetry.instrumentation.grpc import aio_client_interceptors

    return list(aio_client_interceptors())  # type: ignore[no-untyped-call]
