"""`meshctl login|logout|whoami|access-token`: be somebody at the edge."""

import asyncio
import getpass
from typing import Any, TextIO

import click

from mesh.config import MeshSettings
from services.meshctl.credentials import Credentials, fresh_token, get, log_in, log_out, read_headers
from services.meshctl.edge import find_edge
from services.meshctl.output import output_option, show
from services.meshctl.users import read_password


@click.command()
@click.option("--user", default=None, help="Name of the user.  [default: that of the account]")
@click.option("--password-file", type=click.File("r"), help="Read the password from a file, - for standard input.")
@click.pass_obj
def login(settings: MeshSettings, user: str | None, password_file: TextIO | None) -> None:
    """Log in with a password. What the commands call through the edge is called in that name then."""
    name = user or getpass.getuser()
    password = read_password(password_file, confirm=False)
    made = asyncio.run(log_in(find_edge(settings), name, password))
    Credentials(settings).save(made)
    click.echo(f"logged in as {name}")


@click.command()
@click.pass_obj
def logout(settings: MeshSettings) -> None:
    """End the login, and all tokens that came from it."""
    credentials = Credentials(settings)
    known = credentials.load()
    if known is None:
        click.echo("Nobody has logged in.")
        return
    credentials.forget()
    asyncio.run(log_out(find_edge(settings), known))
    click.echo(f"{known.user} is logged out")


@click.command()
@output_option
@click.pass_obj
def whoami(settings: MeshSettings, output: str) -> None:
    """Show who one is at the edge."""

    async def ask() -> dict[str, Any]:
        edge = find_edge(settings)
        return await get(edge, "/v1/auth/whoami", dict(await read_headers(settings, edge)))

    facts = asyncio.run(ask())
    show(output, facts, lambda: click.echo(f"{facts['principal']}, roles: {', '.join(facts['roles']) or 'none'}"))


@click.command("access-token")
@click.pass_obj
def access_token(settings: MeshSettings) -> None:
    """Print a fresh access token, for curl: -H "authorization: Bearer $(meshctl access-token)"."""
    click.echo(asyncio.run(fresh_token(settings, find_edge(settings))))
