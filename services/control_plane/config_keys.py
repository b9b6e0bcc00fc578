"""The history of the mesh document in Consul's KV, below agentmesh/config/."""

import asyncio
from collections.abc import AsyncIterator

from mesh.config.history import Entry
from mesh.discovery import ConsulEndpoint, open_kv, watch_keys

PREFIX = "agentmesh/config/"

_WATCHED = ("active", "document")


class ConsulKeys:
    """A KeyStore that several control planes share. A value has at most 512 KB, as Consul demands."""

    def __init__(self, endpoint: ConsulEndpoint, *, prefix: str = PREFIX, watched: tuple[str, ...] = _WATCHED) -> None:
        self._endpoint = endpoint
        self._prefix = prefix
        self._watched = watched

    async def get(self, key: str) -> Entry | None:
        """See KeyStore.get."""
        async with open_kv(self._endpoint) as kv:
            found = await kv.get(self._prefix + key)
        return None if found is None else Entry(found.value, str(found.index))

    async def put(self, key: str, value: bytes, *, expected: str | None = None) -> bool:
        """See KeyStore.put."""
        index = None if expected is None else int(expected or "0")
        async with open_kv(self._endpoint) as kv:
            return await kv.put(self._prefix + key, value, expected=index)

    async def delete(self, key: str) -> None:
        """See KeyStore.delete."""
        async with open_kv(self._endpoint) as kv:
            await kv.delete(self._prefix + key)

    async def watch(self) -> AsyncIterator[None]:
        """See KeyStore.watch. Only `watched` is; revisions change only together with the head."""
        changed = asyncio.Event()

        async def follow(key: str) -> None:
            async for view in watch_keys(lambda: open_kv(self._endpoint), self._prefix + key):
                if view.is_available:
                    changed.set()

        watches = [asyncio.ensure_future(follow(key)) for key in self._watched]
        try:
            while True:
                await changed.wait()
                changed.clear()
                yield None
        finally:
            for watch in watches:
                watch.cancel()
            await asyncio.gather(*watches, return_exceptions=True)
