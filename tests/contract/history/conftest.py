import asyncio
import itertools
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from benchmarks.ports import free_ports
from mesh.config.history import Draft, FileKeys, KeyStore, Layer, RevisionStore
from mesh.discovery import ConsulAgentSettings, ConsulEndpoint, find_consul, open_consul_agent
from mesh.model import Address
from services.control_plane.config_keys import ConsulKeys

Open = Callable[[], KeyStore]


ROOT = Path(__file__).resolve().parents[3]
_prefixes = itertools.count(1)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def consul() -> AsyncIterator[ConsulEndpoint]:
    with tempfile.TemporaryDirectory(prefix="am-", dir="/tmp") as folder:
        settings = ConsulAgentSettings(
            binary=find_consul(ROOT / ".tools", progress=print),
            data_dir=Path(folder) / "consul",
            http=Address("127.0.0.1", free_ports(1)[0]),
            rpc_port=free_ports(1)[0],
            serf_port=free_ports(1)[0],
        )
        async with open_consul_agent(settings) as agent:
            yield ConsulEndpoint(agent.address)


@pytest.fixture(params=["files", "consul"])
def open_keys(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens the same place again and again, as several processes would."""
    if request.param == "files":
        return lambda: FileKeys(tmp_path / "config")
    endpoint = request.getfixturevalue("consul")
    prefix = f"agentmesh/test-{next(_prefixes)}/"
    return lambda: ConsulKeys(endpoint, prefix=prefix)


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
