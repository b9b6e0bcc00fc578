"""`meshctl secrets`: the secrets that the mesh keeps, to which a mesh document refers by kv:NAME."""

import asyncio
import sys
from collections.abc import Sequence

import click

from mesh.config import MeshSettings
from mesh.config.document.secret_store import LONGEST_SECRET
from mesh.errors import InvalidInput, NotFound
from mesh.state import open_secret_store
from services.meshctl.output import output_option, print_table, show


@click.group()
def secrets() -> None:
    """Keep secrets for mesh documents, encrypted. No RPC is needed: whoever has the key file has the secrets.

    They lie in the state directory, or with MESH_SECRETS_STORE=consul in Consul; the key is in MESH_SECRETS_KEY_FILE,
    by default secrets.key in the state directory.
    """


@secrets.command("set")
@click.argument("name")
@click.pass_obj
def set_secret(settings: MeshSettings, name: str) -> None:
    """Set the secret NAME to what comes on standard input; on a terminal it is asked for and not shown.

    A document refers to it by {secret: "kv:NAME"}.
    """
    value = _value_from_stdin()

    async def run() -> None:
        async with open_secret_store(settings) as store:
            await store.set(name, value)

    asyncio.run(run())
    click.echo(f"set {name}")


@secrets.command("list")
@output_option
@click.pass_obj
def list_secrets(settings: MeshSettings, output: str) -> None:
    """List the names of the secrets. Values are never shown."""

    async def run() -> Sequence[str]:
        async with open_secret_store(settings) as store:
            return await store.list()

    names = asyncio.run(run())
    rows = [(name, f"kv:{name}") for name in names]
    show(
        output, {"secrets": list(names)}, lambda: print_table(("name", "reference"), rows, empty="No secrets are set.")
    )


@secrets.command()
@click.argument("name")
@click.pass_obj
def remove(settings: MeshSettings, name: str) -> None:
    """Remove the secret NAME. Documents that refer to it cannot be applied any more."""

    async def run() -> bool:
        async with open_secret_store(settings) as store:
            return await store.remove(name)

    if not asyncio.run(run()):
        raise NotFound(f"There is no secret {name!r}.", field="name", fix="See `meshctl secrets list`.")
    click.echo(f"removed {name}")


def _value_from_stdin() -> str:
    """One line; never an argument, which other accounts of the machine and the shell's history could see."""
    if sys.stdin.isatty():
        value: str = click.prompt("Value", hide_input=True, confirmation_prompt=True)
        return value
    content = sys.stdin.buffer.read(LONGEST_SECRET + 2)
    try:
        return content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as err:
        raise InvalidInput("Standard input is no text in UTF-8.", field="value", fix="Encode it, as base64.") from err
