"""Health of any service of the mesh by its name, for clients at the edge: Check("financial")."""

from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh.errors import NotFound, ResourceExhausted
from mesh.model import check_service_name
from mesh.rpc import error_from_rpc, open_channel

_TIMEOUT = 5.0
_MOST_AT_ONCE = 64

_ILL = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


class HealthDesk:
    """Asks services for their health through the own sidecar.

    Each time over a channel of its own: names come from outside, and channels that are kept would be as many. Health
    checks are exempt from the server's bound on calls, so there is one here.
    """

    def __init__(self) -> None:
        self._asking = 0

    async def is_healthy(self, service: str) -> bool:
        """Whether some instance says that it serves.

        Raises InvalidInput for what is no name, NotFound for an unknown one, ResourceExhausted when too many ask.
        """
        check_service_name(service)
        if self._asking >= _MOST_AT_ONCE:
            raise ResourceExhausted(
                f"{_MOST_AT_ONCE} health checks are under way, which is the most at once.", fix="Try again in a moment."
            )
        self._asking += 1
        try:
            async with open_channel(service) as channel:
                return await _check(service, channel)
        finally:
            self._asking -= 1


async def _check(service: str, channel: grpc.aio.Channel) -> bool:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    try:
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT)
    except grpc.aio.AioRpcError as err:
        if err.code() in _ILL:
            return False
        if err.code() is grpc.StatusCode.UNIMPLEMENTED:
            # So the sidecar answers for a name without a route.
            raise NotFound(
                f"There is no service {service!r} in the mesh.",
                reason="UNKNOWN_SERVICE",
                field="service",
                fix="`meshctl status` lists them.",
            ) from err
        raise error_from_rpc(err) from err
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
