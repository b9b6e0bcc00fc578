"""`meshctl certs root|rotate-root|revoke|restore`: look after the certificate authority."""

import asyncio
from datetime import UTC

import click
from google.protobuf.json_format import MessageToDict

from agentmesh.control.v1 import authority_service_pb2 as pb
from agentmesh.control.v1 import authority_service_pb2_grpc
from mesh.config import MeshSettings
from services.meshctl.connection import TIMEOUT, open_admin
from services.meshctl.output import ago, output_option, print_table, show


@click.command()
@output_option
@click.pass_obj
def root(settings: MeshSettings, output: str) -> None:
    """Show the trusted roots, how far a rotation is, and revoked identities."""

    async def read() -> pb.Authority:
        async with open_admin(settings) as channel:
            stub = authority_service_pb2_grpc.AuthorityServiceStub(channel)
            return (await stub.GetAuthority(pb.GetAuthorityRequest(), timeout=TIMEOUT)).authority

    _show(asyncio.run(read()), output)


@click.command()
@output_option
@click.pass_obj
def rotate_root(settings: MeshSettings, output: str) -> None:
    """Replace the root by a new one, in steps that fail no call; each takes the lifetime of a certificate."""

    async def rotate() -> pb.Authority:
        async with open_admin(settings) as channel:
            stub = authority_service_pb2_grpc.AuthorityServiceStub(channel)
            return (await stub.RotateRoot(pb.RotateRootRequest(), timeout=TIMEOUT)).authority

    _show(asyncio.run(rotate()), output)


@click.command()
@click.argument("service")
@click.pass_obj
def revoke(settings: MeshSettings, service: str) -> None:
    """Shut SERVICE out at once, on open connections too: it calls nobody, and nobody calls it."""

    async def call() -> None:
        async with open_admin(settings) as channel:
            stub = authority_service_pb2_grpc.AuthorityServiceStub(channel)
            await stub.RevokeIdentity(pb.RevokeIdentityRequest(service=service), timeout=TIMEOUT)

    asyncio.run(call())
    click.echo(f"{service} is shut out. `meshctl certs restore {service}` lets it in again.")


@click.command()
@click.argument("service")
@click.pass_obj
def restore(settings: MeshSettings, service: str) -> None:
    """Let a revoked SERVICE in again."""

    async def call() -> None:
        async with open_admin(settings) as channel:
            stub = authority_service_pb2_grpc.AuthorityServiceStub(channel)
            await stub.RestoreIdentity(pb.RestoreIdentityRequest(service=service), timeout=TIMEOUT)

    asyncio.run(call())
    click.echo(f"{service} is let in.")


def _show(authority: pb.Authority, output: str) -> None:
    def render() -> None:
        rows = [
            (each.fingerprint[:16], "signs" if each.signs else "trusted", ago(each.expire_time.ToDatetime(tzinfo=UTC)))
            for each in authority.roots
        ]
        print_table(("root", "what it does", "ends"), rows, empty="No roots.")
        click.echo(f"{authority.stage}{'; ' + authority.next if authority.next else ''}")
        for each in authority.revocations:
            click.echo(f"revoked: {each.service}, {ago(each.time.ToDatetime(tzinfo=UTC))}")

    facts = MessageToDict(authority, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    show(output, facts, render)
