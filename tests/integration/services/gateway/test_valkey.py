"""The Valkey that comes along."""

import stat
from pathlib import Path
from typing import Any

import pytest
from valkey.asyncio import Valkey

from mesh.config import MeshSettings
from mesh.errors import InvalidInput
from services.gateway.storage import open_storage
from services.meshctl import valkey as module
from services.meshctl.valkey import find_valkey, open_valkey


async def test_only_its_own_account_can_reach_it(valkey: Any) -> None:
    socket = valkey.state_dir / "valkey" / "valkey.sock"
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    assert (await valkey.info("server"))["tcp_port"] == 0


async def test_its_memory_is_bounded_and_nothing_is_written(valkey: Any) -> None:
    memory = await valkey.info("memory")
    assert (memory["maxmemory"], memory["maxmemory_policy"]) == (64 << 20, "volatile-lru")
    async with Valkey.from_url(valkey.url) as client:
        await client.set("key", "value")
        assert (await client.config_get("save"))["save"] == ""
    assert [path.name for path in (valkey.state_dir / "valkey").iterdir()] == ["valkey.sock"]


async def test_what_has_no_end_stays_when_the_memory_is_full(valkey: Any) -> None:
    async with open_storage(valkey.url) as storage:
        await storage.records.put("group", "key", b"kept")
        for number in range(80):
            await storage.answers.put(f"answer-{number}", b"x" * (1 << 20), 600.0)
        assert (await valkey.info("stats"))["evicted_keys"] > 0
        assert await storage.records.all("group") == {"key": b"kept"}
        await storage.records.remove("group", "key")
        assert await storage.records.get("group", "key") is None


async def test_of_several_gateways_one_has_a_claim(valkey: Any) -> None:
    async with open_storage(valkey.url) as one, open_storage(valkey.url) as other:
        assert await one.records.claim("work", "one", 60.0)
        assert await one.records.claim("work", "one", 60.0)
        assert not await other.records.claim("work", "other", 60.0)
        await other.records.release("work", "other")
        assert not await other.records.claim("work", "other", 60.0)
        await one.records.release("work", "one")
        assert await other.records.claim("work", "other", 60.0)


async def test_one_that_dies_is_started_again(valkey: Any) -> None:
    killed = await valkey.kill()
    assert await valkey.pid() != killed


async def test_it_ends_with_its_owner(short_dir: Path) -> None:
    settings = MeshSettings.from_environment({"MESH_STATE_DIR": str(short_dir)})
    async with open_valkey(settings) as url, Valkey.from_url(url) as client:
        pid = (await client.info("server"))["process_id"]
    assert not Path(f"/proc/{pid}").exists()


async def test_a_path_that_no_socket_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="bytes"):
        async with open_valkey(MeshSettings.from_environment({"MESH_STATE_DIR": str(tmp_path / ("x" * 120))})):
            pass


def test_the_wheel_has_one_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    found = find_valkey()
    assert found is not None
    assert found.name == "valkey-server"
