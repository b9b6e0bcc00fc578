import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from mesh.config.history import Draft, FileKeys, KeyStore, Layer, RevisionStore

Open = Callable[[], KeyStore]


@pytest_asyncio.fixture(params=["files"])
async def open_keys(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Open]:
    """Opens the same place again and again, as several processes would."""
    yield lambda: FileKeys(tmp_path / "config")


@pytest.fixture
def keys(open_keys: Open) -> KeyStore:
    return open_keys()


@pytest.fixture
def history(keys: KeyStore) -> RevisionStore:
    return RevisionStore(keys)


@pytest.fixture
def draft() -> Callable[..., Draft]:
    def make(text: str = "mesh: {}\n", **more: object) -> Draft:
        layers = (Layer("defaults", "defaults.yaml", "services: {}\n"), Layer("operator", "m.yaml", text))
        return Draft("operator ann", "a change", layers, "v1", **more)  # type: ignore[arg-type]

    return make


@pytest.fixture
def within() -> Callable[..., object]:
    async def wait(awaitable: object, seconds: float = 5.0) -> object:
        return await asyncio.wait_for(awaitable, seconds)  # type: ignore[arg-type]

    return wait
