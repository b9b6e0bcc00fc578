"""From a URL to a storage."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from mesh.errors import InvalidInput
from services.gateway.storage.in_process import InProcessAnswers, InProcessCounts, InProcessRecords
from services.gateway.storage.ports import Answers, Counts, Records

_REMOTE = ("redis", "rediss", "valkey", "valkeys")


@dataclass(frozen=True, slots=True)
class Storage:
    """All kinds of storage at one place."""

    counts: Counts
    answers: Answers
    records: Records


def check_storage_url(url: str) -> str:
    """The scheme of a URL. Raises InvalidInput, without the URL, which may have a password, for what is no storage."""
    scheme = url.partition("://")[0]
    if not _names_a_storage(url):
        raise InvalidInput(
            "It names no storage.",
            field="MESH_CACHE_URL",
            fix="Use valkey://HOST:6379/0, redis://, valkeys:// or rediss:// for TLS, unix:///PATH, or memory://.",
        )
    return scheme


def _names_a_storage(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    match parts.scheme:
        case "memory":
            return True
        case "unix":
            return not parts.hostname and len(parts.path) > 1
        case scheme:
            return scheme in _REMOTE and bool(parts.hostname) and port != 0


@asynccontextmanager
async def open_storage(url: str) -> AsyncIterator[Storage]:
    """The storage at a URL, until the block ends. Raises InvalidInput for a bad one; connects at the first use."""
    if check_storage_url(url) == "memory":
        yield Storage(InProcessCounts(), InProcessAnswers(), InProcessRecords())
        return
    # Imported here: a gateway that counts by itself need not pay their memory.
    from services.gateway.storage.in_valkey import open_valkey_storage

    async with open_valkey_storage(url) as (counts, answers, records):
        yield Storage(counts, answers, records)
