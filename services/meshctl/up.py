"""`meshctl up` and `meshctl down`: the example mesh, or one of your own, on this machine."""

import asyncio
import fcntl
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import click

import mesh
from agentmesh.control.v1 import control_service_pb2
from mesh.config import MeshFile, MeshSettings, load_mesh_file
from mesh.errors import AlreadyExists, FailedPrecondition
from mesh.runtime import Stop, adopt_orphans, open_background
from mesh.telemetry import configure_logs
from services.meshctl.connection import RunningMesh, open_control, running_file
from services.meshctl.infrastructure import open_consul, open_control_plane
from services.meshctl.inspect import is_ready, read_status, render_endpoints, render_services
from services.meshctl.log_file import keep_small, stderr_to
from services.meshctl.logs import logs_dir
from services.meshctl.members import GATEWAY, MemberRequest, open_members
from services.meshctl.probe import probe_call

EXAMPLE = Path(mesh.__file__).resolve().parents[1] / "sidecar_config" / "mesh.yaml"

_READY_TIMEOUT = 60.0
_DOWN_TIMEOUT = 60.0


@click.command()
@click.option(
    "--file",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=EXAMPLE,
    help="The mesh file: which services to start.  [default: the example mesh]",
)
@click.pass_obj
def up(settings: MeshSettings, path: Path) -> None:
    """Start a mesh in the foreground; Ctrl-C stops all of it."""
    mesh_file = load_mesh_file(path, known=(GATEWAY,))
    started = time.monotonic()

    def say(text: str) -> None:
        click.echo(f"{time.monotonic() - started:5.1f} s  {text}")

    async def run() -> None:
        async with adopt_orphans():
            await _run(settings, mesh_file, say, _stop_on_signals(say))

    log = logs_dir(settings) / "mesh.log"
    with _only_one(settings), stderr_to(log):
        configure_logs("meshctl", level=os.environ.get("MESH_LOG_LEVEL") or "info")
        asyncio.run(run())
    say("stopped")


def _stop_on_signals(say: Callable[[str], None]) -> Stop:
    """A Stop that the first SIGTERM or SIGINT sets; a second one ends a start that hangs."""
    stop = Stop()
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None

    def on_signal() -> None:
        if stop.is_set:
            task.cancel()
            return
        say("stopping")
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return stop


async def _run(settings: MeshSettings, mesh_file: MeshFile, say: Callable[[str], None], stop: Stop) -> None:
    """Start everything, say so, and wait for `stop`."""
    async with (
        open_background(keep_small(logs_dir(settings) / "mesh.log")),
        _open_mesh(settings, mesh_file, say, stop) as running,
    ):
        if stop.is_set:
            return
        answer = await probe_call(settings, mesh_file)
        status = await read_status(settings)
        render_services(status["services"])
        render_endpoints(running.endpoints)
        click.echo(f"a call through the mesh: {answer}")
        say("ready. Ctrl-C stops the mesh." if sys.stdout.isatty() else "ready")
        await stop.wait()


@asynccontextmanager
async def _open_mesh(
    settings: MeshSettings, mesh_file: MeshFile, say: Callable[[str], None], stop: Stop
) -> AsyncIterator[RunningMesh]:
    endpoints = {
        "gateway": f"http://{settings.gateway_bind}",
        "consul": f"{settings.consul_scheme}://{settings.consul}",
        "ui": f"{settings.consul_scheme}://{settings.consul}/ui/",
        "control": str(settings.control_advertise),
        "enrolment": str(settings.enrolment_advertise),
    }
    requests = [MemberRequest.gateway(settings.gateway_bind), *MemberRequest.of_file(mesh_file)]
    running = RunningMesh(os.getpid(), tuple(dict.fromkeys(request.name for request in requests)), endpoints)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(open_control_plane(settings))
        say("control plane started")
        if settings.consul_is_given:
            say(f"using the Consul at {settings.consul}")
        else:
            await stack.enter_async_context(open_consul(settings, say=say))
            say("Consul started")
        running.save(running_file(settings))
        stack.callback(running_file(settings).unlink, missing_ok=True)
        await stack.enter_async_context(open_members(settings, requests, say=say, stop=stop))
        if not stop.is_set:
            await _wait_until_ready(settings, running, stop)
        yield running


async def _wait_until_ready(settings: MeshSettings, running: RunningMesh, stop: Stop) -> None:
    """Wait until all services are healthy; raises FailedPrecondition that names those that are not."""
    ill = list(running.services)
    try:
        async with asyncio.timeout(_READY_TIMEOUT), open_control(settings) as control:
            async for response in control.WatchServices(control_service_pb2.WatchServicesRequest()):
                by_name = {service.name: service for service in response.services}
                ill = [
                    name for name in running.services if name not in by_name or not is_ready([by_name[name]], [name])
                ]
                if not ill or stop.is_set:
                    return
    except TimeoutError as err:
        raise FailedPrecondition(
            f"Not healthy after {_READY_TIMEOUT:g} s: {', '.join(ill)}.", fix=f"See `meshctl logs {ill[0]}`."
        ) from err


class _only_one:
    """Holds the lock of a state directory; raises AlreadyExists when another `up` holds it."""

    def __init__(self, settings: MeshSettings) -> None:
        self._settings = settings
        self._file: int | None = None

    def __enter__(self) -> None:
        directory = self._settings.state_dir
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as err:
            raise FailedPrecondition(
                f"{directory} cannot be used: {err.strerror}.",
                field="state-dir",
                fix="Make it writable, or name another with --state-dir or MESH_STATE_DIR.",
            ) from err
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            os.close(self._file)
            running = RunningMesh.load(self._settings)
            raise AlreadyExists(
                f"A mesh runs in {directory} already{f' (process {running.pid})' if running else ''}.",
                fix="Stop it with `meshctl down`, or use another --state-dir.",
            ) from err

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            os.close(self._file)


@click.command()
@click.pass_obj
def down(settings: MeshSettings) -> None:
    """Stop the mesh that `up` runs, and wait until all of it has ended."""
    running = RunningMesh.load(settings)
    if running is None or not is_running(settings):
        click.echo(f"No mesh runs in {settings.state_dir}.")
        return
    os.kill(running.pid, signal.SIGTERM)
    end = time.monotonic() + _DOWN_TIMEOUT
    while _is_alive(running.pid):
        if time.monotonic() > end:
            raise FailedPrecondition(
                f"Process {running.pid} has not ended after {_DOWN_TIMEOUT:g} s.", fix=f"See {logs_dir(settings)}."
            )
        time.sleep(0.1)
    click.echo("stopped")


def is_running(settings: MeshSettings) -> bool:
    """Whether `up` runs a mesh in the state directory."""
    running = RunningMesh.load(settings)
    return running is not None and _is_alive(running.pid)


def _is_alive(pid: int) -> bool:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, 0)
        return True
    return False
