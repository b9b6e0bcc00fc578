"""`meshctl token`: let a workload on another machine join."""

import asyncio
from datetime import UTC

import click
from google.protobuf.duration_pb2 import Duration

from agentmesh.control.v1 import control_service_pb2
from mesh.config import MeshSettings
from mesh.model import KINDS
from services.meshctl.amount import Amount
from services.meshctl.connection import TIMEOUT, open_control
from services.meshctl.output import output_option, show

_MOST_MINUTES = 24 * 60.0


async def declare(settings: MeshSettings, name: str, kind: str, upstreams: tuple[str, ...]) -> None:
    """Tell the control plane which services `name` may call."""
    request = control_service_pb2.DeclareServiceRequest(name=name, kind=kind, upstreams=upstreams)
    async with open_control(settings) as control:
        await control.DeclareService(request, timeout=TIMEOUT)


async def create_token(settings: MeshSettings, service: str, *, minutes: float = 10.0) -> tuple[str, str]:
    """A join token and when it ends (ISO 8601)."""
    lifetime = Duration()
    lifetime.FromNanoseconds(int(minutes * 60e9))
    request = control_service_pb2.CreateJoinTokenRequest(service=service, lifetime=lifetime)
    async with open_control(settings) as control:
        response = await control.CreateJoinToken(request, timeout=TIMEOUT)
    return response.token, response.expire_time.ToDatetime(tzinfo=UTC).isoformat()


@click.group()
def token() -> None:
    """Make join tokens."""


@token.command()
@click.argument("service")
@click.option(
    "--minutes", type=Amount(_MOST_MINUTES), default=10.0, show_default=True, help="How long the token lives."
)
@click.option("--kind", type=click.Choice(KINDS), help="Declare the service, too: its kind ...")
@click.option("--upstream", "upstreams", multiple=True, help="... and a service that it may call; may be repeated.")
@output_option
@click.pass_obj
def create(
    settings: MeshSettings, service: str, minutes: float, kind: str | None, upstreams: tuple[str, ...], output: str
) -> None:
    """Make a token with which one workload of SERVICE joins the mesh. It is a secret; it serves one workload once."""
    if upstreams and kind is None:
        raise click.UsageError("--upstream goes with --kind.")

    async def run() -> tuple[str, str]:
        if kind is not None:
            await declare(settings, service, kind, upstreams)
        return await create_token(settings, service, minutes=minutes)

    text, expires = asyncio.run(run())
    show(output, {"token": text, "expires": expires}, lambda: click.echo(text))
