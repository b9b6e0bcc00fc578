"""`meshctl up` and `meshctl down`: the example mesh, or one of your own, on this machine."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import click

import mesh
from agentmesh.control.v1 import control_pb2, control_service_pb2
from mesh.config import MeshFile, MeshSettings, load_mesh_file
from mesh.errors import FailedPrecondition, InvalidInput, MeshError, PermissionDenied, Unavailable
from mesh.model import Address
from mesh.runtime import adopt_orphans, open_background
from mesh.telemetry import configure_logs
from services.meshctl.connection import TIMEOUT, RunningMesh, open_control, running_file
from services.meshctl.foreground import run_until_signal
from services.meshctl.infrastructure import open_consul, open_control_plane
from services.meshctl.log_file import keep_small, stderr_to
from services.meshctl.logs import logs_dir
from services.meshctl.members import GATEWAY, MemberRequest, open_members
from services.meshctl.probe import probe_call
from services.meshctl.registry import choose_registry
from services.meshctl.state_lock import find_holder, hold_state_dir
from services.meshctl.status import find_ill, read_status, render_endpoints, render_services
from services.meshctl.valkey import open_valkey

EXAMPLE = Path(mesh.__file__).resolve().parents[1] / "sidecar_config" / "mesh.yaml"

_READY_TIMEOUT = 60.0
_DOWN_TIMEOUT = 60.0
_PAUSE = 0.2
_REGISTRY_TIMEOUT = 10.0


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
    check_ports(settings)
    mesh_file = load_mesh_file(path, known=(GATEWAY,))
    started = time.monotonic()

    def say(text: str) -> None:
        # Its reader may go: Ctrl-C in `meshctl up | tee FILE` ends tee, too. That is no reason not to stop in order.
        with suppress(OSError):
            click.echo(f"{time.monotonic() - started:5.1f} s  {text}")

    async def run(wait: Callable[[], Awaitable[None]]) -> None:
        async with adopt_orphans():
            await _run(settings, mesh_file, say, wait)

    log = logs_dir(settings) / "mesh.log"
    with hold_state_dir(settings), stderr_to(log):
        configure_logs("meshctl", level=os.environ.get("MESH_LOG_LEVEL") or "info")
        asyncio.run(run_until_signal(run, on_stop=lambda: say("stopping")))
    say("stopped")


def check_ports(settings: MeshSettings) -> None:
    """Raise InvalidInput for ports that are 0 or meant for two things; others must be told where to go."""
    ports = {
        "MESH_CONTROL_BIND": settings.control_bind,
        "MESH_ENROLMENT_BIND": settings.enrolment_bind,
        "MESH_GATEWAY_BIND": settings.gateway_bind,
        "MESH_GATEWAY_TLS_BIND": settings.gateway_tls_bind,
    }
    if not settings.consul_is_given and settings.registry != "embedded":
        ports["MESH_CONSUL_BIND"] = settings.consul
    seen: dict[Address, str] = {}
    for name, address in ports.items():
        if not address.port:
            raise InvalidInput(f"{address} has no port.", field=name, fix="Name one from 1 to 65535.")
        if address in seen:
            raise InvalidInput(f"{address} is that of {seen[address]}, too.", field=name, fix="Choose another port.")
        seen[address] = name


async def _run(
    settings: MeshSettings, mesh_file: MeshFile, say: Callable[[str], None], wait: Callable[[], Awaitable[None]]
) -> None:
    """Start everything, say so, and hold it until `wait` returns."""
    async with (
        open_background(keep_small(logs_dir(settings) / "mesh.log")),
        _open_mesh(settings, mesh_file, say) as running,
    ):
        answer = await _try_call(settings, mesh_file)
        status = await read_status(settings)
        with suppress(OSError):
            render_services(status["services"])
            render_endpoints(running.endpoints)
            click.echo(f"a call through the mesh: {answer}")
        say("ready. Ctrl-C stops the mesh." if sys.stdout.isatty() else "ready")
        await wait()


async def _try_call(settings: MeshSettings, mesh_file: MeshFile) -> str:
    """What came back from a call; one server that fails to answer is no reason to stop all others."""
    try:
        return await probe_call(settings, mesh_file)
    except MeshError as err:
        return f"FAILED: {err}"


@asynccontextmanager
async def _open_mesh(
    settings: MeshSettings, mesh_file: MeshFile, say: Callable[[str], None]
) -> AsyncIterator[RunningMesh]:
    settings = await choose_registry(settings, say=say)
    endpoints = _endpoints(settings)
    members = MemberRequest.of_file(mesh_file)
    running = RunningMesh(os.getpid(), tuple(dict.fromkeys((GATEWAY, *(member.name for member in members)))), endpoints)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(open_control_plane(settings))
        say("control plane started")
        if settings.registry == "embedded":
            say(f"using the embedded registry in {settings.registry_file}")
        elif settings.consul_is_given:
            await _check_registry(settings)
            say(f"using the Consul at {settings.consul}")
        else:
            await stack.enter_async_context(open_consul(settings, say=say))
            say("Consul started")
        running.save(running_file(settings))
        stack.callback(running_file(settings).unlink, missing_ok=True)
        if not settings.cache_url:
            settings = replace(settings, cache_url=await stack.enter_async_context(open_valkey(settings)))
        requests = [MemberRequest.gateway(settings), *members]
        await stack.enter_async_context(open_members(settings, requests, say=say))
        await _wait_until_ready(settings, running)
        yield running


def _endpoints(settings: MeshSettings) -> dict[str, str]:
    """Where the mesh is reached."""
    secure = f"https://{settings.gateway_tls_bind}"
    consul = f"{settings.consul_scheme}://{settings.consul}"
    registry = (
        {"registry": str(settings.control_advertise)}
        if settings.registry == "embedded"
        else {"consul": consul, "ui": f"{consul}/ui/"}
    )
    return {
        "gateway": secure if settings.is_production else f"http://{settings.gateway_bind}",
        "gateway_tls": secure,
        "control": str(settings.control_advertise),
        "enrolment": str(settings.enrolment_advertise),
        **registry,
    }


async def _check_registry(settings: MeshSettings) -> None:
    """Raise Unavailable when the Consul that was given does not answer the control plane in time."""
    error = ""
    try:
        async with asyncio.timeout(_REGISTRY_TIMEOUT):
            while True:
                async with open_control(settings) as control:
                    facts = await control.GetMesh(control_service_pb2.GetMeshRequest(), timeout=TIMEOUT)
                if facts.registry_available:
                    return
                error = facts.registry_error
                await asyncio.sleep(_PAUSE)
    except TimeoutError as err:
        raise Unavailable(
            f"The Consul at {settings.consul} cannot be used: {error.rstrip('.')}.",
            field="CONSUL_HTTP_ADDR",
            fix="Start it or correct its address, or unset CONSUL_HTTP_ADDR: then `meshctl up` runs one.",
        ) from err


async def _wait_until_ready(settings: MeshSettings, running: RunningMesh) -> None:
    """Wait until all services are healthy; raises FailedPrecondition that names those that are not, and why."""
    ill = dict.fromkeys(running.services, "not registered")
    try:
        async with asyncio.timeout(_READY_TIMEOUT):
            while ill:
                # A control plane that dies meanwhile is started again.
                with suppress(Unavailable):
                    async for services in _watch_services(settings):
                        ill = find_ill(services, running.services)
                        if not ill:
                            return
                await asyncio.sleep(_PAUSE)
    except TimeoutError as err:
        named = "; ".join(f"{name} ({why})" for name, why in ill.items())
        raise FailedPrecondition(
            f"Not healthy after {_READY_TIMEOUT:g} s: {named}.", fix=f"See `meshctl logs {next(iter(ill))}`."
        ) from err


async def _watch_services(settings: MeshSettings) -> AsyncIterator[list[control_pb2.Service]]:
    async with open_control(settings) as control:
        async for response in control.WatchServices(control_service_pb2.WatchServicesRequest()):
            yield list(response.services)


@click.command()
@click.pass_obj
def down(settings: MeshSettings) -> None:
    """Stop the mesh that `up` runs or is starting, and wait until all of it has ended."""
    holder = find_holder(settings)
    if holder is None:
        click.echo(f"No mesh runs in {settings.state_dir}.")
        return
    try:
        os.kill(holder, signal.SIGTERM)
    except ProcessLookupError:
        pass  # It has ended at this moment.
    except PermissionError as err:
        raise PermissionDenied(
            f"Process {holder} is that of another user.", fix="Stop it as that user, or with sudo."
        ) from err
    end = time.monotonic() + _DOWN_TIMEOUT
    # Not by the process id: that may be another's by then, or a zombie's for ever.
    while find_holder(settings) == holder:
        if time.monotonic() > end:
            raise FailedPrecondition(
                f"Process {holder} has not ended after {_DOWN_TIMEOUT:g} s.", fix=f"See {logs_dir(settings)}."
            )
        time.sleep(0.1)
    click.echo("stopped")
