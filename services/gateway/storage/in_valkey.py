"""Storage in a Valkey or Redis. Both speak the same protocol, so the client of one serves for both."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar, cast

from limits.aio.storage import Storage as LimitStorage
from limits.errors import StorageError
from limits.storage import storage_from_string
from valkey.asyncio import ConnectionPool, Valkey
from valkey.exceptions import ValkeyError

from mesh.errors import InvalidInput, Unavailable

Answer = TypeVar("Answer")

_PREFIX = "agentmesh"
_MOST_CONNECTIONS = 64


@asynccontextmanager
async def open_valkey_storage(url: str) -> AsyncIterator[tuple["ValkeyCounts", "ValkeyAnswers", "ValkeyRecords"]]:
    """All kinds of storage on one pool, which connects at the first use. Raises InvalidInput for a bad URL."""
    try:
        pool = ConnectionPool.from_url(url)
    except (ValueError, TypeError) as err:
        # Its words may have the password in them.
        raise InvalidInput(
            "It cannot be read as the URL of a Valkey or Redis.",
            field="MESH_CACHE_URL",
            fix="Use one such as valkey://HOST:6379/0.",
        ) from err
    counts = storage_from_string(
        "async+valkey://localhost:6379",
        implementation="valkey",
        connection_pool=pool,  # type: ignore[arg-type] # passed on to the client as it is
        wrap_exceptions=True,
        key_prefix=_PREFIX,
    )
    # The own bound of this pool raises at once, and that of the blocking one loses connections to cancellation.
    room = asyncio.Semaphore(_MOST_CONNECTIONS)
    async with aclosing(Valkey(connection_pool=pool)) as client, aclosing(pool):
        yield ValkeyCounts(cast(LimitStorage, counts), room), ValkeyAnswers(client, room), ValkeyRecords(client, room)


class ValkeyCounts:
    """Numbers in a storage of the library `limits`, whose script adds and sets the end in one round trip."""

    def __init__(self, storage: LimitStorage, room: asyncio.Semaphore) -> None:
        self._storage = storage
        self._room = room

    async def add(self, key: str, lifetime: int, amount: int = 1) -> int:
        """See Counts."""
        return await _ask(self._room, lambda: self._storage.incr(key, lifetime, amount))

    async def get(self, key: str) -> int:
        """See Counts."""
        return await _ask(self._room, lambda: self._storage.get(key))


class ValkeyAnswers:
    """Bytes in Valkey."""

    def __init__(self, client: Valkey, room: asyncio.Semaphore) -> None:
        self._client = client
        self._room = room

    async def get(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """See Answers."""
        named = [_named(key) for key in keys]
        return await _ask(self._room, lambda: cast(Awaitable[Sequence[bytes | None]], self._client.mget(named)))

    async def put(self, key: str, value: bytes, lifetime: float) -> None:
        """See Answers."""
        milliseconds = max(1, round(lifetime * 1000))
        await _ask(self._room, lambda: cast(Awaitable[object], self._client.set(_named(key), value, px=milliseconds)))


# One step for the server: between two questions the claim could end, and be somebody else's.
_CLAIM = """
local holder = redis.call('get', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('set', KEYS[1], ARGV[1], 'px', ARGV[2])
return 1
"""
_RELEASE = """
if redis.call('get', KEYS[1]) == ARGV[1] then redis.call('del', KEYS[1]) end
return 1
"""


class ValkeyRecords:
    """Records as hashes, one for each group."""

    def __init__(self, client: Valkey, room: asyncio.Semaphore) -> None:
        self._client: Any = client
        self._room = room

    async def all(self, group: str) -> Mapping[str, bytes]:
        """See Records."""
        found: Mapping[bytes, bytes] = await _ask(self._room, lambda: self._client.hgetall(_named(group)))
        return {key.decode(): value for key, value in found.items()}

    async def get(self, group: str, key: str) -> bytes | None:
        """See Records."""
        return await _ask(self._room, lambda: cast(Awaitable[bytes | None], self._client.hget(_named(group), key)))

    async def put(self, group: str, key: str, value: bytes) -> None:
        """See Records."""
        await _ask(self._room, lambda: cast(Awaitable[object], self._client.hset(_named(group), key, value)))

    async def remove(self, group: str, key: str) -> None:
        """See Records."""
        await _ask(self._room, lambda: cast(Awaitable[object], self._client.hdel(_named(group), key)))

    async def claim(self, name: str, owner: str, lifetime: float) -> bool:
        """See Records."""
        milliseconds = max(1, round(lifetime * 1000))
        asked = await _ask(
            self._room,
            lambda: cast(Awaitable[int], self._client.eval(_CLAIM, 1, _named(name), owner, milliseconds)),
        )
        return bool(asked)

    async def release(self, name: str, owner: str) -> None:
        """See Records."""
        await _ask(self._room, lambda: cast(Awaitable[object], self._client.eval(_RELEASE, 1, _named(name), owner)))


def _named(key: str) -> str:
    """As the library names the keys of numbers."""
    return f"{_PREFIX}:{key}"


async def _ask(room: asyncio.Semaphore, ask: Callable[[], Awaitable[Answer]]) -> Answer:
    async with room:
        try:
            return await ask()
        except (StorageError, ValkeyError, OSError) as err:
            raise Unavailable("The storage of the gateways is not there.", reason="STORAGE_AWAY") from err
