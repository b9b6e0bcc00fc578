"""The servicer context that handlers get."""

from typing import Any

Metadata = tuple[tuple[str, str | bytes], ...]


class CallIo:
    """gRPC's own context, which besides sends `opening` with the first answer.

    Not before: once initial metadata has left, a failure comes in trailers, and "gRPC status codes in trailers will not
    trigger retry logic": https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/router_filter
    """

    __slots__ = ("_inner", "_opening", "has_opened")

    def __init__(self, inner: Any, opening: Metadata) -> None:
        self._inner = inner
        self._opening = opening
        self.has_opened = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Send the handler's metadata together with ours."""
        self.has_opened = True
        await self._inner.send_initial_metadata((*initial_metadata, *self._opening))

    async def open(self) -> None:
        """Send ours, unless the handler has sent its own."""
        if not self.has_opened:
            await self.send_initial_metadata(())

    async def write(self, message: Any) -> None:
        """Send one message of a stream."""
        if not self.has_opened:
            await self.send_initial_metadata(())
        await self._inner.write(message)
