"""`meshctl run`: put an MCP server, an agent, any gRPC server or a client into a running mesh."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh.config import METADATA_KEY, MeshSettings
from mesh.errors import InvalidInput
from mesh.model import check_service_name
from mesh.runtime import adopt_orphans, open_background
from mesh.sidecar import Member, open_member
from mesh.telemetry import configure_logs
from services.meshctl.connection import TIMEOUT, list_services
from services.meshctl.credentials import open_service
from services.meshctl.foreground import run_until_signal
from services.meshctl.log_file import keep_small, stderr_to
from services.meshctl.logs import logs_dir
from services.meshctl.members import (
    MemberRequest,
    a2a_bridge_command,
    bridge_command,
    build_settings,
    open_local_member,
)
from services.meshctl.registry import registry_of, settings_in_use

_CALLABLE_TIMEOUT = 20.0
_POLL = 0.02


def _parse_metadata(_context: click.Context, _parameter: click.Parameter, words: tuple[str, ...]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or METADATA_KEY.fullmatch(name) is None:
            raise click.BadParameter(f"{word!r} is not NAME=VALUE with a name of letters, digits, dashes, underscores.")
        if name in pairs:
            raise click.BadParameter(f"{name} is given twice.")
        pairs[name] = value
    return pairs


_UPSTREAM = click.option("--upstream", "upstreams", multiple=True, help="A service that it may call; may be repeated.")
_TOKEN_FILE = click.option(
    "--token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Join by the token in this file (or in $MESH_JOIN_TOKEN) instead of over the local admin socket.",
)
_PROXYLESS = click.option(
    "--proxyless",
    is_flag=True,
    help="It calls as xds:///SERVICE, by gRPC's own xDS client instead of an Envoy; $GRPC_XDS_BOOTSTRAP is set.",
)
_VERSION = click.option("--version", default="", help="Its version, by which subsets are chosen.")
_METADATA = click.option(
    "--metadata",
    "metadata",
    multiple=True,
    callback=_parse_metadata,
    help="NAME=VALUE, such as zone=a; may be repeated.",
)
_COMMAND = click.argument("command", nargs=-1, type=click.UNPROCESSED)
_NAME = click.argument("name")


@click.group()
def run() -> None:
    """Put a server or a client into the running mesh; Ctrl-C takes it out again.

    On the machine of the control plane nothing else is needed. On another one, make a token there with `meshctl token
    create NAME --kind KIND`, set MESH_CONTROL_ADVERTISE, MESH_ENROLMENT_ADVERTISE, MESH_SIDECAR_BIND
    and, when the registry is Consul, CONSUL_HTTP_ADDR, and pass the token with --token-file.
    """


@run.command()
@_NAME
@click.option("--url", default="", help="URL of a streamable HTTP MCP server, instead of a command.")
@_UPSTREAM
@_VERSION
@_METADATA
@_TOKEN_FILE
@_COMMAND
@click.pass_obj
def mcp(
    settings: MeshSettings,
    name: str,
    url: str,
    upstreams: tuple[str, ...],
    version: str,
    metadata: dict[str, str],
    token_file: Path | None,
    command: tuple[str, ...],
) -> None:
    """Put an MCP server into the mesh: `meshctl run mcp NAME -- COMMAND...`, or --url URL for one over HTTP."""
    if bool(url) == bool(command):
        raise click.UsageError("Give either a command after `--`, or --url URL.")
    bridge = bridge_command(command, url)
    _run_member(settings, MemberRequest(name, "mcp", bridge, upstreams, version=version, metadata=metadata), token_file)


@run.command()
@_NAME
@_UPSTREAM
@_VERSION
@_METADATA
@_TOKEN_FILE
@_COMMAND
@click.pass_obj
def agent(
    settings: MeshSettings,
    name: str,
    upstreams: tuple[str, ...],
    version: str,
    metadata: dict[str, str],
    token_file: Path | None,
    command: tuple[str, ...],
) -> None:
    """Put an agent into the mesh: a program that serves agentmesh.agent.v1 at $MESH_LISTEN."""
    _check_command(command)
    request = MemberRequest(name, "agent", command, upstreams, version=version, metadata=metadata)
    _run_member(settings, request, token_file)


@run.command()
@_NAME
@click.option("--url", required=True, help="URL of the agent's card, or of what .well-known/agent-card.json is below.")
@_VERSION
@_METADATA
@_TOKEN_FILE
@click.pass_obj
def a2a(
    settings: MeshSettings, name: str, url: str, version: str, metadata: dict[str, str], token_file: Path | None
) -> None:
    """Put an agent of A2A that is elsewhere into the mesh: `meshctl run a2a NAME --url URL`.

    Headers for it, such as Authorization, stand in MESH_A2A_HEADERS, one "Name: value" a line.
    """
    request = MemberRequest(name, "agent", a2a_bridge_command(url), version=version, metadata=metadata)
    _run_member(settings, request, token_file)


@run.command()
@_NAME
@click.option("--listen", default="", help='Where the program listens by itself, "unix:/PATH"; else at $MESH_LISTEN.')
@_PROXYLESS
@_UPSTREAM
@_VERSION
@_METADATA
@_TOKEN_FILE
@_COMMAND
@click.pass_obj
def service(
    settings: MeshSettings,
    name: str,
    listen: str,
    proxyless: bool,
    upstreams: tuple[str, ...],
    version: str,
    metadata: dict[str, str],
    token_file: Path | None,
    command: tuple[str, ...],
) -> None:
    """Put any gRPC server into the mesh. It must serve grpc.health.v1.Health.

    With --proxyless its own calls leave without an Envoy. What comes in still passes one: grpc.aio cannot serve by xDS.
    """
    _check_command(command)
    if listen and not listen.startswith("unix:/"):
        raise InvalidInput(f"{listen!r} is no unix socket.", field="--listen", fix="Write unix:/PATH, absolute.")
    request = MemberRequest(
        name, "service", command, upstreams, listen=listen, is_proxyless=proxyless, version=version, metadata=metadata
    )
    _run_member(settings, request, token_file)


@run.command()
@_NAME
@_PROXYLESS
@_UPSTREAM
@_TOKEN_FILE
@_COMMAND
@click.pass_obj
def client(
    settings: MeshSettings,
    name: str,
    proxyless: bool,
    upstreams: tuple[str, ...],
    token_file: Path | None,
    command: tuple[str, ...],
) -> None:
    """Run a program that calls services of the mesh and serves nothing.

    It calls SERVICE by the unix socket $MESH_OUTBOUND with the authority SERVICE.mesh; with --proxyless as
    xds:///SERVICE, in any language whose gRPC has an xDS client, with no Envoy on this side at all. Like every member
    it is kept running; what it says is in `meshctl logs`.
    """
    _check_command(command)
    if not upstreams and token_file is None:
        raise click.UsageError("Name with --upstream what it calls.")
    request = MemberRequest(name, "service", command, upstreams, is_client=True, is_proxyless=proxyless)
    _run_member(settings, request, token_file)


def _check_command(command: tuple[str, ...]) -> None:
    if not command:
        raise click.UsageError("Give a command after `--`.")


def _run_member(settings: MeshSettings, request: MemberRequest, token_file: Path | None) -> None:
    check_service_name(request.name, field="NAME")
    token = _read_token(token_file)

    async def hold(wait: Callable[[], Awaitable[None]]) -> None:
        async with adopt_orphans(), open_background(keep_small(log)), AsyncExitStack() as stack:
            if token is None:
                asked = replace(request, upstreams=request.upstreams or await _upstreams_in_use(settings, request.name))
                in_use = await settings_in_use(settings)
                member = await stack.enter_async_context(open_local_member(in_use, asked))
            else:
                member = await stack.enter_async_context(_open_remote(settings, request, token))
            if request.is_client:
                _say_what_it_calls(request)
                await wait()
                return
            async with open_background(_say_when_callable(settings, request.name, member, is_local=token is None)):
                await wait()

    def on_stop() -> None:
        # Whoever reads this may have gone.
        with suppress(OSError):
            click.echo("leaving")

    log = logs_dir(settings) / f"{request.name}.log"
    with stderr_to(log):
        configure_logs("meshctl", level=os.environ.get("MESH_LOG_LEVEL") or "info")
        asyncio.run(run_until_signal(hold, on_stop=on_stop))


def _say_what_it_calls(request: MemberRequest) -> None:
    form = "xds:///{}" if request.is_proxyless else "{}.mesh"
    called = ", ".join(map(form.format, request.upstreams)) or "what it may call"
    click.echo(f"{request.name} is in the mesh as a client of {called}")


async def _upstreams_in_use(settings: MeshSettings, name: str) -> tuple[str, ...]:
    """What the running instances of a service may call: a further instance is no reason to take it from them."""
    services = await list_services(settings)
    return next((tuple(found.upstreams) for found in services if found.name == name and found.instances), ())


async def _say_when_callable(settings: MeshSettings, name: str, member: Member, *, is_local: bool) -> None:
    """Say that the member is in the mesh once it can be called; a check that fails is told, too."""
    try:
        async with asyncio.timeout(_CALLABLE_TIMEOUT):
            await _wait_until_healthy(member)
            if is_local:
                await _wait_until_routed(settings, name)
    except TimeoutError:
        click.echo(f"{name} is registered, but its health check has not passed yet: see `meshctl status`.")
        return
    found = member.instance
    names = f": {', '.join(found.capabilities)}" if found.capabilities else ""
    click.echo(f"{name} is in the mesh at {found.address}:{found.port}{names}")


async def _wait_until_healthy(member: Member) -> None:
    """Return when the registry gives the instance to callers."""
    async for snapshot in member.registry.watch():
        instances = (instance for found in snapshot.services.values() for instance in found)
        if any(instance.id == member.instance.id and instance.is_healthy for instance in instances):
            return


async def _wait_until_routed(settings: MeshSettings, name: str) -> None:
    """Return when the edge, the last to hear of it, leads to the service."""
    async with open_service(settings, name) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        while True:
            try:
                await health.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
                return
            except grpc.aio.AioRpcError as err:
                # Who may not call it cannot tell by that whether others can.
                if err.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
                    return
            await asyncio.sleep(_POLL)


def _read_token(path: Path | None) -> str | None:
    if path is None:
        return os.environ.get("MESH_JOIN_TOKEN") or None
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as err:
        why = (err.strerror if isinstance(err, OSError) else "") or "it is not text"
        raise InvalidInput(f"{path} cannot be read: {why}.", field="--token-file") from err
    if not token:
        raise InvalidInput(
            f"{path} is empty.", field="--token-file", fix="Write the output of `meshctl token create` to it."
        )
    return token


@asynccontextmanager
async def _open_remote(settings: MeshSettings, request: MemberRequest, token: str) -> AsyncIterator[Member]:
    async def given() -> str:
        return token

    async with open_member(build_settings(settings, request), token=given, registry=registry_of(settings)) as member:
        yield member
