"""Which URLs name a storage."""

import pytest

from mesh.errors import InvalidInput
from services.gateway.storage import check_storage_url, open_storage
from services.gateway.storage.in_process import InProcessCounts


@pytest.mark.parametrize(
    "url",
    [
        "memory://",
        "valkey://localhost:6379",
        "redis://localhost",
        "rediss://user:pa%40ss@cache.example.org:6380/2",
        "valkeys://[::1]:6379",
        "unix:///run/valkey.sock",
        "unix:///run/with%20space.sock?db=1",
    ],
)
async def test_these_name_a_storage(url: str) -> None:
    assert check_storage_url(url) == url.partition("://")[0]
    async with open_storage(url):
        pass


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "http://localhost",
        "valkey://",
        "redis://:secret-word@",
        "valkey://secret-word@host:no",
        "valkey://host:99999",
        "unix://host/path",
        "unix://",
        "valkey://host:6379/0?socket_timeout=secret-word",
    ],
)
async def test_these_do_not_and_are_not_repeated(url: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        async with open_storage(url):
            pass
    assert raised.value.field == "MESH_CACHE_URL"
    assert "secret-word" not in str(raised.value)


async def test_memory_counts_in_this_process() -> None:
    async with open_storage("memory://") as storage:
        assert isinstance(storage.counts, InProcessCounts)
