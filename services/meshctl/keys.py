"""`meshctl keys`: API keys for clients outside of the mesh."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, timedelta
from typing import Any

import click
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp

from agentmesh.access.v1 import access_pb2, access_service_pb2_grpc
from agentmesh.access.v1 import access_service_pb2 as pb
from mesh.config import MeshSettings
from mesh.config.document import parse_duration
from services.meshctl.connection import TIMEOUT, open_admin
from services.meshctl.output import ago, output_option, print_table, show


class Lifetime(click.ParamType[Any]):
    """A duration such as 90s, 12h or 30d."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        text = str(value)
        days = text.removesuffix("d")
        try:
            found = parse_duration(f"{float(days) * 24:g}h" if text != days else text)
        except ValueError as err:
            self.fail(f"{text!r}: {err}, or days such as 30d", param, ctx)
        assert isinstance(found, timedelta)
        duration = Duration()
        duration.FromTimedelta(found)
        return duration


_quiet_option = click.option(
    "--quiet", is_flag=True, help="Say nothing but the key, as it always is on standard output."
)


@asynccontextmanager
async def open_access(settings: MeshSettings) -> AsyncIterator[Any]:
    """AccessService of the running mesh."""
    async with open_admin(settings) as channel:
        yield access_service_pb2_grpc.AccessServiceStub(channel)


@click.group()
def keys() -> None:
    """Make, list, replace and revoke API keys."""


@keys.command("create")
@click.option("--label", default="", help="What it is for.")
@click.option("--role", "roles", multiple=True, help="A role that it has; may be repeated.")
@click.option("--expires", "lifetime", type=Lifetime(), help="When it ends, such as 12h or 30d.  [default: never]")
@_quiet_option
@output_option
@click.pass_obj
def create_key(
    settings: MeshSettings, label: str, roles: tuple[str, ...], lifetime: Duration | None, quiet: bool, output: str
) -> None:
    """Make a key. It is printed once, and kept nowhere."""

    async def call() -> pb.CreateKeyResponse:
        async with open_access(settings) as access:
            request = pb.CreateKeyRequest(label=label, roles=roles, lifetime=lifetime)
            response: pb.CreateKeyResponse = await access.CreateKey(request, timeout=TIMEOUT)
            return response

    _show_secret(asyncio.run(call()), output, quiet=quiet)


@keys.command("rotate")
@click.argument("identifier", metavar="ID")
@click.option("--grace", type=Lifetime(), help="How long the old key goes on, such as 1h.  [default: not at all]")
@_quiet_option
@output_option
@click.pass_obj
def rotate_key(settings: MeshSettings, identifier: str, grace: Duration | None, quiet: bool, output: str) -> None:
    """Make a key in place of another one, with its roles and lifetime."""

    async def call() -> pb.RotateKeyResponse:
        async with open_access(settings) as access:
            request = pb.RotateKeyRequest(id=identifier, grace=grace)
            response: pb.RotateKeyResponse = await access.RotateKey(request, timeout=TIMEOUT)
            return response

    _show_secret(asyncio.run(call()), output, quiet=quiet)


@keys.command("revoke")
@click.argument("identifier", metavar="ID")
@output_option
@click.pass_obj
def revoke_key(settings: MeshSettings, identifier: str, output: str) -> None:
    """End a key within a second."""

    async def call() -> access_pb2.ApiKey:
        async with open_access(settings) as access:
            response: pb.RevokeKeyResponse = await access.RevokeKey(pb.RevokeKeyRequest(id=identifier), timeout=TIMEOUT)
            return response.key

    key = asyncio.run(call())
    facts = MessageToDict(key, preserving_proto_field_name=True)
    show(output, facts, lambda: click.echo(f"{key.id} counts no more."))


@keys.command("list")
@output_option
@click.pass_obj
def list_keys(settings: MeshSettings, output: str) -> None:
    """List all keys, newest first."""

    async def call() -> list[access_pb2.ApiKey]:
        async with open_access(settings) as access:
            return list((await access.ListKeys(pb.ListKeysRequest(), timeout=TIMEOUT)).keys)

    found = asyncio.run(call())
    rows = [
        (key.id, key.label or "-", ", ".join(key.roles) or "-", _age(key.create_time), _state_of(key), key.creator)
        for key in found
    ]
    columns = ("key", "label", "roles", "made", "state", "by")
    show(
        output,
        [MessageToDict(key, preserving_proto_field_name=True) for key in found],
        lambda: print_table(columns, rows, empty="There are no API keys. `meshctl keys create` makes one."),
    )


def _show_secret(response: pb.CreateKeyResponse | pb.RotateKeyResponse, output: str, *, quiet: bool) -> None:
    key = response.key
    facts = MessageToDict(key, preserving_proto_field_name=True) | {"secret": response.secret}
    # The key is alone on standard output, for scripts.
    show(output, facts, lambda: click.echo(response.secret))
    if output != "json" and not quiet:
        replaces = f" in place of {key.rotated_from}" if key.rotated_from else ""
        click.echo(f"{key.id}{replaces}, {_state_of(key)}. The key is shown this once, and kept nowhere.", err=True)


def _state_of(key: access_pb2.ApiKey) -> str:
    if key.HasField("revoke_time"):
        return "revoked"
    if not key.HasField("expire_time"):
        return "good"
    now = Timestamp()
    now.GetCurrentTime()
    if now.seconds >= key.expire_time.seconds:
        return "ended"
    return f"good until {key.expire_time.ToJsonString()}"


def _age(moment: Timestamp) -> str:
    return ago(moment.ToDatetime(tzinfo=UTC))
