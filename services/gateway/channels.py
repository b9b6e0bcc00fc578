"""Channels to services through the own sidecar: kept for those that are asked often, and not too many of them."""

from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import grpc

from mesh.rpc import open_channel

_MOST_IDLE = 64


@dataclass(slots=True)
class _Held:
    channel: grpc.aio.Channel
    opened: AsyncExitStack
    """Closes it, also when it is forgotten."""
    users: int = 0


class Channels:
    """Leave it to close all. Belongs to one event loop; `outbound` is that of `open_channel`."""

    def __init__(self, outbound: str | None = None, *, most_idle: int = _MOST_IDLE) -> None:
        self._outbound = outbound
        self._most_idle = most_idle
        self._held: OrderedDict[str, _Held] = OrderedDict()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in tuple(self._held):
            await self._held.pop(name).opened.aclose()

    def __len__(self) -> int:
        return len(self._held)

    @asynccontextmanager
    async def use(self, service: str) -> AsyncIterator[grpc.aio.Channel]:
        """A channel to a service, which is not closed before the block ends. Raises what `open_channel` raises."""
        held = self._held.get(service)
        if held is None:
            # Opening does not connect, and does not wait: nobody else can have opened it meanwhile.
            opened = AsyncExitStack()
            channel = await opened.enter_async_context(open_channel(service, outbound=self._outbound))
            held = self._held[service] = _Held(channel, opened)
        self._held.move_to_end(service)
        held.users += 1
        try:
            yield held.channel
        finally:
            held.users -= 1
            await self._close_idle()

    async def _close_idle(self) -> None:
        idle = [name for name, held in self._held.items() if not held.users]
        for name in idle[: max(0, len(idle) - self._most_idle)]:
            await self._held.pop(name).opened.aclose()
