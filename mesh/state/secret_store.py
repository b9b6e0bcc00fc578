"""The mesh's own secrets, kept where the settings say."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from mesh.config import MeshSettings
from mesh.config.document.secret_store import FileShelf, SecretBox, SecretStore
from mesh.discovery import ConsulEndpoint, ConsulKv, open_kv

PREFIX = "agentmesh/secrets/"


@asynccontextmanager
async def open_secret_store(settings: MeshSettings) -> AsyncIterator[SecretStore]:
    """The secrets of a mesh. Raises FailedPrecondition when the key file cannot be used.

    In the state directory, or in Consul, where several control planes with one key file share them.
    """
    box = SecretBox.open(settings.secrets_key_file)
    if settings.secrets_store == "file":
        yield SecretStore(FileShelf(settings.state_dir / "secrets"), box)
        return
    endpoint = ConsulEndpoint(settings.consul, token=settings.consul_token, scheme=settings.consul_scheme)
    async with open_kv(endpoint) as kv:
        yield SecretStore(ConsulShelf(kv), box)


class ConsulShelf:
    """Encrypted secrets in Consul's KV, one key for each."""

    def __init__(self, kv: ConsulKv) -> None:
        self._kv = kv

    async def get(self, name: str) -> bytes | None:
        """What lies under a name, None when nothing does."""
        entry = await self._kv.get(PREFIX + name)
        return None if entry is None else entry.value

    async def put(self, name: str, value: bytes) -> None:
        """Put something under a name."""
        await self._kv.put(PREFIX + name, value)

    async def delete(self, name: str) -> None:
        """Remove what lies under a name, if anything does."""
        await self._kv.delete(PREFIX + name)

    async def names(self) -> Sequence[str]:
        """All names, sorted."""
        return sorted(key.removeprefix(PREFIX) for key in await self._kv.list(PREFIX))
