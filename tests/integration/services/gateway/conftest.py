"""A real Valkey, as `meshctl up` runs it."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from valkey.asyncio import Valkey
from valkey.exceptions import ValkeyError

from mesh.config import MeshSettings
from services.meshctl.valkey import open_valkey


@dataclass
class RunningValkey:
    """One that is started again whenever it dies."""

    url: str
    state_dir: Path

    async def info(self, section: str) -> dict[str, object]:
        async with Valkey.from_url(self.url) as client:
            return await client.info(section)

    async def pid(self) -> int:
        """The pid of the one that answers; waits until one does."""
        async with asyncio.timeout(15):
            while True:
                try:
                    return int(str((await self.info("server"))["process_id"]))
                except (ValkeyError, OSError):
                    await asyncio.sleep(0.02)

    async def kill(self) -> int:
        """Kill it, and wait until it is dead; gives the pid that it had."""
        pid = await self.pid()
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(10):
            while Path(f"/proc/{pid}").exists():
                await asyncio.sleep(0.01)
        return pid

    async def stop(self) -> int:
        """Hold it: it keeps its socket and answers nobody, until `go_on`."""
        pid = await self.pid()
        os.kill(pid, signal.SIGSTOP)
        return pid

    def go_on(self, pid: int) -> None:
        os.kill(pid, signal.SIGCONT)


@pytest.fixture
async def valkey(short_dir: Path) -> AsyncIterator[RunningValkey]:
    state_dir = short_dir / "with a space"
    async with open_valkey(MeshSettings.from_environment({"MESH_STATE_DIR": str(state_dir)})) as url:
        yield RunningValkey(url, state_dir)
