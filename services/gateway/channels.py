"""Channels to services, one for each, that doors share: opening one for each call would cost more than the call."""

from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import grpc

from mesh.rpc import open_channel

_MOST_IDLE = 64


@dataclass(slots=True)
class _Held:
    opened: AbstractAsyncContextManager[grpc.aio.Channel]
    channel: grpc.aio.Channel
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
            await self._held.pop(name).opened.__aexit__(None, None, None)

    def __len__(self) -> int:
        return len(self._held)

    @asynccontextmanager
    async def use(self, service: str) -> AsyncIterator[grpc.aio.Channel]:
        """A channel to a service, which is not closed before the block ends. Raises what `open_channel` raises."""
        held = self._held.get(service)
        if held is None:
            # Opening does not connect, and does not wait: nobody else can have opened it meanwhile.
            opened = open_channel(service, outbound=self._outbound)
            # The context is kept, too: without a reference to it, it is ended, and the channel closed.
            held = self._held[service] = _Held(opened, await opened.__aenter__())
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
            await self._held.pop(name).opened.__aexit__(None, None, None)
