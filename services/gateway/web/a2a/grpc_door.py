"""The gRPC door: lf.a2a.v1.A2AService, for whichever agent a call names.

By the header x-mesh-service, which Envoy sets for who names an agent by header or authority, or by the tenant, which is
how clients that read the card say it.
"""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc

from services.gateway.web.a2a.lazy import A2aDoor

if TYPE_CHECKING:
    from services.gateway.web.a2a.grpc_binding import GrpcBinding

SERVICE = "lf.a2a.v1.A2AService"

_STREAMS = ("SendStreamingMessage", "SubscribeToTask")
_UNARY = (
    "SendMessage",
    "GetTask",
    "ListTasks",
    "CancelTask",
    "CreateTaskPushNotificationConfig",
    "GetTaskPushNotificationConfig",
    "ListTaskPushNotificationConfigs",
    "DeleteTaskPushNotificationConfig",
    "GetExtendedAgentCard",
)


class A2aGrpcDoor(grpc.GenericRpcHandler):
    """Takes bytes: what reads them comes with the SDK, at the first call."""

    def __init__(self, door: A2aDoor) -> None:
        self._door = door
        self._handlers: dict[str, Any] = {}
        for name in _UNARY:
            self._handlers[f"/{SERVICE}/{name}"] = grpc.unary_unary_rpc_method_handler(self._unary(name))
        for name in _STREAMS:
            self._handlers[f"/{SERVICE}/{name}"] = grpc.unary_stream_rpc_method_handler(self._stream(name))

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of a method of A2A; None for all others."""
        return self._handlers.get(handler_call_details.method)

    async def _binding(self) -> "GrpcBinding":
        return (await self._door.bindings()).grpc

    def _unary(self, name: str) -> Any:
        async def answer(request: bytes, context: Any) -> bytes:
            return await (await self._binding()).answer(name, request, context)

        return answer

    def _stream(self, name: str) -> Any:
        async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
            async for message in (await self._binding()).stream(name, request, context):
                yield message

        return stream
