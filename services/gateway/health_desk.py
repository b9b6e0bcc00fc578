"""Health of any service of the mesh by its name, for clients at the edge: Check("financial")."""

from contextlib import AsyncExitStack
from typing import Any, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh.model import check_service_name
from mesh.rpc import open_channel

_METHOD = "/grpc.health.v1.Health/Check"
_TIMEOUT = 5.0
_MOST_CHANNELS = 256

_NOT_SERVED = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


class HealthDesk(grpc.GenericRpcHandler):
    """Answers grpc.health.v1.Health/Check: "" for the gateway itself, a name by asking that service."""

    def __init__(self) -> None:
        self.is_serving = False
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of Check; None for any other method."""
        if handler_call_details.method != _METHOD:
            return None
        return grpc.unary_unary_rpc_method_handler(
            self._check,
            request_deserializer=health_pb2.HealthCheckRequest.FromString,
            response_serializer=health_pb2.HealthCheckResponse.SerializeToString,
        )

    async def _check(self, request: health_pb2.HealthCheckRequest, context: Any) -> health_pb2.HealthCheckResponse:
        states = health_pb2.HealthCheckResponse
        if not request.service:
            return states(status=states.SERVING if self.is_serving else states.NOT_SERVING)
        check_service_name(request.service)
        stub: Any = health_pb2_grpc.HealthStub(await self._channel(request.service))
        left = context.time_remaining()
        try:
            answer: health_pb2.HealthCheckResponse = await stub.Check(
                health_pb2.HealthCheckRequest(), timeout=min(left or _TIMEOUT, _TIMEOUT)
            )
        except grpc.aio.AioRpcError as err:
            if err.code() in _NOT_SERVED:
                return states(status=states.NOT_SERVING)
            if err.code() is grpc.StatusCode.UNIMPLEMENTED:
                # The gateway's sidecar answers so for a name without a route.
                await context.abort(grpc.StatusCode.NOT_FOUND, f"There is no service {request.service!r} in the mesh.")
            raise
        return answer

    async def _channel(self, service: str) -> grpc.aio.Channel:
        if service not in self._channels:
            if len(self._channels) >= _MOST_CHANNELS:
                await self._stack.aclose()
                self._channels.clear()
            self._channels[service] = await self._stack.enter_async_context(open_channel(service))
        return self._channels[service]
