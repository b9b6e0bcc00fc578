"""`meshctl token-keys`: the keys that sign the tokens of users and clients."""

import asyncio
from datetime import UTC

import click
from google.protobuf.json_format import MessageToDict

from agentmesh.access.v1 import access_pb2
from agentmesh.access.v1 import access_service_pb2 as pb
from mesh.config import MeshSettings
from services.meshctl.connection import TIMEOUT
from services.meshctl.keys import open_access
from services.meshctl.output import ago, output_option, print_table, show


@click.group("token-keys")
def token_keys() -> None:
    """Show and replace the keys that sign tokens."""


@token_keys.command("list")
@output_option
@click.pass_obj
def list_token_keys(settings: MeshSettings, output: str) -> None:
    """List the keys, newest first."""

    async def call() -> list[access_pb2.SigningKey]:
        async with open_access(settings) as access:
            return list((await access.ListSigningKeys(pb.ListSigningKeysRequest(), timeout=TIMEOUT)).keys)

    found = asyncio.run(call())
    rows = [(key.id, key.algorithm, ago(key.create_time.ToDatetime(tzinfo=UTC)), _state_of(key)) for key in found]
    show(
        output,
        [MessageToDict(key, preserving_proto_field_name=True) for key in found],
        lambda: print_table(("key", "algorithm", "made", "state"), rows, empty="There are no keys yet."),
    )


@token_keys.command("rotate")
@output_option
@click.pass_obj
def rotate_token_key(settings: MeshSettings, output: str) -> None:
    """Make a new key; tokens of the old one are good until they end."""

    async def call() -> access_pb2.SigningKey:
        async with open_access(settings) as access:
            request = pb.RotateSigningKeyRequest()
            response: pb.RotateSigningKeyResponse = await access.RotateSigningKey(request, timeout=TIMEOUT)
            return response.key

    key = asyncio.run(call())
    facts = MessageToDict(key, preserving_proto_field_name=True)
    show(output, facts, lambda: click.echo(f"{key.id} signs as soon as all gateways know it, in 10 s."))


def _state_of(key: access_pb2.SigningKey) -> str:
    if key.signs:
        return "signs"
    return f"kept until {key.retire_time.ToJsonString()}" if key.HasField("retire_time") else "announced"
