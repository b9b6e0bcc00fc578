"""Consul's key-value store and its sessions: small values that several control planes share, and locks on them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from consul.exceptions import NotFound as ConsulNotFound

from mesh.discovery.consul_client import (
    REQUEST_TIMEOUT,
    WAIT,
    ConsulClient,
    ConsulEndpoint,
    not_consul,
    open_consul,
)
from mesh.errors import InvalidInput, MeshError
from mesh.runtime import Backoff

LONGEST_VALUE = 512 << 10
"""Bytes; Consul takes no more in one value."""

_FIRST_RETRY = 0.1
_LONGEST_RETRY = 2.0
# The least time between two answers of a watch: a burst of writes is passed on merged.
_GAP = 0.025


@dataclass(frozen=True, slots=True)
class KvEntry:
    """One key. `index` grows at each change of it; `session` holds its lock, "" for none."""

    key: str
    value: bytes = field(repr=False)
    index: int
    session: str = ""


@dataclass(frozen=True, slots=True)
class KvView:
    """The entries below a prefix at one moment, by key; while `is_available` is False, what was known last."""

    entries: Mapping[str, KvEntry]
    is_available: bool
    error: str = ""


class ConsulKv:
    """Requests on keys and sessions; each answers within seconds or raises MeshError. Made by `open_kv`."""

    def __init__(self, client: ConsulClient) -> None:
        self._client = client

    async def get(self, key: str) -> KvEntry | None:
        """The entry of a key, None when there is none."""
        _, found = await self._read(key, recurse=False)
        return found.get(key)

    async def list(self, prefix: str) -> Mapping[str, KvEntry]:
        """All entries whose keys begin with `prefix`, by key."""
        _, found = await self._read(prefix, recurse=True)
        return found

    async def put(self, key: str, value: bytes, *, expected: int | None = None) -> bool:
        """Write a key. With `expected` only if its index still is that (0: it is not there); tells whether it was."""
        if len(value) > LONGEST_VALUE:
            raise InvalidInput(
                f"The value of {key} has {len(value)} bytes; Consul takes {LONGEST_VALUE} at most.",
                reason="VALUE_TOO_LONG",
                field=key,
                fix="Make it shorter.",
            )
        return await self._change(lambda kv: kv.put(key, value, cas=expected))

    async def delete(self, key: str) -> None:
        """Remove a key; one that is not there is removed already."""
        await self._change(lambda kv: kv.delete(key))

    async def acquire(self, key: str, value: bytes, session: str) -> bool:
        """Take the lock of a key for a session and write its value; False while another session has it."""
        return await self._change(lambda kv: kv.put(key, value, acquire=session))

    async def create_session(self, name: str, *, ttl: int) -> str:
        """A session that ends unless renewed within `ttl` seconds (10 at least); its locked keys go with it.

        Consul may let it live for twice as long, never shorter.
        """
        created = await self._client.ask(
            lambda: self._client.consul.session.create(name, ttl=ttl, lock_delay=0, behavior="delete")
        )
        if not isinstance(created, str) or not created:
            raise not_consul(self._client.endpoint, "its session has another form")
        return created

    async def renew_session(self, session: str) -> bool:
        """Prolong a session; False when it has ended."""
        try:
            await self._client.ask(lambda: self._renew(session))
        except _SessionEnded:
            return False
        return True

    async def _renew(self, session: str) -> Any:
        try:
            return await self._client.consul.session.renew(session)
        except ConsulNotFound as err:
            raise _SessionEnded from err

    async def destroy_session(self, session: str) -> None:
        """End a session and free its locks at once."""
        await self._client.ask(lambda: self._client.consul.session.destroy(session))

    async def wait(self, key: str, index: int | None, *, recurse: bool = False) -> tuple[int, Mapping[str, KvEntry]]:
        """Entries with the index to wait on next; with an index it waits for a newer one, seconds at most."""
        return await self._read(key, recurse=recurse, index=index)

    async def _read(self, key: str, *, recurse: bool, index: int | None = None) -> tuple[int, Mapping[str, KvEntry]]:
        bound = REQUEST_TIMEOUT if index is None else WAIT * 17 / 16 + REQUEST_TIMEOUT
        answer = await self._client.ask(
            lambda: self._client.consul.kv.get(key, index=index, wait=f"{WAIT:g}s", recurse=recurse), timeout=bound
        )
        try:
            newest, found = int(answer[0]), answer[1]
            rows = found if recurse else [found]
            return newest, MappingProxyType({row["Key"]: _entry(row) for row in rows or () if row is not None})
        except (TypeError, ValueError, KeyError, IndexError) as err:
            raise not_consul(self._client.endpoint, "its keys have another form") from err

    async def _change(self, request: Callable[[Any], Any]) -> bool:
        answer = await self._client.ask(lambda: request(self._client.consul.kv))
        if not isinstance(answer, bool):
            raise not_consul(self._client.endpoint, "its answer has another form")
        return answer


class _SessionEnded(Exception):
    """Consul does not know the session."""


@asynccontextmanager
async def open_kv(endpoint: ConsulEndpoint) -> AsyncIterator[ConsulKv]:
    """The keys of a Consul; nothing is sent before the first request. Closes its connections at the end."""
    async with open_consul(endpoint) as client:
        yield ConsulKv(client)


async def watch_keys(
    connect: Callable[[], AbstractAsyncContextManager[ConsulKv]], prefix: str
) -> AsyncIterator[KvView]:
    """Give what is below `prefix` at once and after every change, for ever. Never raises MeshError; latest wins."""
    backoff = Backoff(_FIRST_RETRY, _LONGEST_RETRY)
    entries: Mapping[str, KvEntry] = MappingProxyType({})
    index: int | None = None
    said: str | None = None
    async with connect() as kv:
        while True:
            try:
                newest, found = await kv.wait(prefix, index, recurse=True)
            except MeshError as err:
                index = None
                if said != str(err):
                    said = str(err)
                    yield KvView(entries, is_available=False, error=said)
                await asyncio.sleep(backoff.next())
                continue
            backoff.reset()
            # An index that goes backwards is that of another history.
            is_news = index is None or said is not None or found != entries
            index = newest if newest > 0 and (index is None or newest >= index) else None
            entries, said = found, None
            if is_news:
                yield KvView(entries, is_available=True)
            await asyncio.sleep(_GAP)


def _entry(row: Mapping[str, Any]) -> KvEntry:
    value = row["Value"]
    data = value if isinstance(value, bytes) else (value or "").encode()
    return KvEntry(str(row["Key"]), data, int(row["ModifyIndex"]), str(row.get("Session") or ""))
