"""Health of any service of the mesh by its name, for clients at the edge: Check("financial")."""

from contextlib import AsyncExitStack
from typing import Any, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh.errors import NotFound
from mesh.model import check_service_name
from mesh.rpc import open_channel

_TIMEOUT = 5.0
_MOST_CHANNELS = 256

_ILL = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


class HealthDesk:
    """Asks services for their health through the own sidecar, over channels that it keeps."""

    def __init__(self) -> None:
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def is_healthy(self, service: str) -> bool:
        """Whether some instance says that it serves. Raises InvalidInput for no name, NotFound for an unknown one."""
        check_service_name(service)
        stub: Any = health_pb2_grpc.HealthStub(await self._channel(service))
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT)
        except grpc.aio.AioRpcError as err:
            if err.code() in _ILL:
                return False
            if err.code() is grpc.StatusCode.UNIMPLEMENTED:
                # So the sidecar answers for a name without a route.
                raise NotFound(
                    f"There is no service {service!r} in the mesh.", field="service", fix="`meshctl status` lists them."
                ) from err
            raise
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def _channel(self, service: str) -> grpc.aio.Channel:
        if service not in self._channels:
            if len(self._channels) >= _MOST_CHANNELS:
                await self._stack.aclose()
                self._channels.clear()
            self._channels[service] = await self._stack.enter_async_context(open_channel(service))
        return self._channels[service]
