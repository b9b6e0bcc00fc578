"""Calls to services as they come, without reading their messages."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc

from mesh.rpc import call_context, open_channel
from mesh.rpc.context import current_call

TIMEOUT = 30.0
"""Seconds for a call for which several may wait."""


class Upstream:
    """One channel to each service, through the own sidecar. Made by `open_upstream`."""

    def __init__(self, stack: AsyncExitStack, outbound: str | None) -> None:
        self._stack = stack
        self._outbound = outbound
        self._calls: dict[tuple[str, str], Any] = {}
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def call(self, service: str, method: str, request: bytes) -> bytes:
        """The answer of a unary call on behalf of who makes the call at hand, within the deadline of that.

        Raises grpc.aio.AioRpcError with what the service says.
        """
        known = self._calls.get((service, method))
        if known is None:
            channel = await self._channel(service)
            known = self._calls[service, method] = channel.unary_unary(f"/{method}")
        answer: bytes = await known(request)
        return answer

    async def call_for_many(self, service: str, method: str, request: bytes) -> bytes:
        """The same with a deadline of its own: whoever began it may have less time than those who wait, too."""
        current_call.set(replace(call_context(), ends_at=time.monotonic() + TIMEOUT))
        return await self.call(service, method, request)

    async def _channel(self, service: str) -> grpc.aio.Channel:
        known = self._channels.get(service)
        if known is None:
            opened = open_channel(service, outbound=self._outbound)
            known = self._channels[service] = await self._stack.enter_async_context(opened)
        return known


@asynccontextmanager
async def open_upstream(outbound: str | None = None) -> AsyncIterator[Upstream]:
    """The way to services while the block runs; `outbound` is that of `open_channel`."""
    async with AsyncExitStack() as stack:
        yield Upstream(stack, outbound)
