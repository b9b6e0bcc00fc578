"""grpc.health.v1. Source: https://github.com/grpc/grpc/blob/master/doc/health-checking.md

Not grpcio-health-checking's servicer: its watches never end, so that one watcher holds a drain up for all of its grace.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh.errors import MeshError
from mesh.rpc.status import code_of

SERVICE_NAME = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

_Context = grpc.aio.ServicerContext[Any, Any]
_messages: Any = health_pb2
_States: Any = health_pb2.HealthCheckResponse


HealthOf = Callable[[str], Awaitable[bool]]
"""Tells whether a service that is reached through this server is healthy; raises NotFound when there is none."""


class HealthServicer(health_pb2_grpc.HealthServicer):
    """The health of each service, by its full name, and of the server, whose name is empty.

    Check asks `health_of`, when there is one, about names that are not served here.
    """

    def __init__(self, names: tuple[str, ...], draining: asyncio.Event, health_of: HealthOf | None = None) -> None:
        self._states: dict[str, int] = dict.fromkeys(names, _States.NOT_SERVING)
        self._health_of = health_of
        self._draining = draining
        self._changed = asyncio.Event()

    def set(self, name: str, *, is_serving: bool) -> None:
        """Set the health of one service; raises KeyError for one that is not served here."""
        state = _States.SERVING if is_serving else _States.NOT_SERVING
        if self._states[name] != state:
            self._states[name] = state
            self._changed.set()
            self._changed = asyncio.Event()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: _Context) -> health_pb2.HealthCheckResponse:
        """The health now; NOT_FOUND for a service that is not served here."""
        state = self._states.get(request.service)
        if state is None and self._health_of is not None:
            try:
                state = _States.SERVING if await self._health_of(request.service) else _States.NOT_SERVING
            except MeshError as err:
                await context.abort(code_of(err), str(err))
        if state is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"{request.service!r} is not served here.")
        return health_pb2.HealthCheckResponse(status=state)

    async def List(self, request: Any, context: _Context) -> Any:  # the type stubs lack its messages
        """The health of all services."""
        return _messages.HealthListResponse(
            statuses={name: health_pb2.HealthCheckResponse(status=state) for name, state in self._states.items()}
        )

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: _Context) -> None:
        """The health now and after each change. Ends when the server drains, after having said NOT_SERVING."""
        told = None
        while True:
            changed = self._changed
            state = self._states.get(request.service, _States.SERVICE_UNKNOWN)
            if state != told:
                told = state
                await context.write(health_pb2.HealthCheckResponse(status=state))
            elif self._draining.is_set():
                return
            else:
                # Draining changes every state, or finds it NOT_SERVING and wakes by `wake`.
                await changed.wait()

    def wake(self) -> None:
        """Let the watches look again."""
        self._changed.set()
        self._changed = asyncio.Event()
