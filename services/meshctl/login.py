"""`meshctl login|logout|whoami|access-token`: be somebody at the edge."""

import asyncio
import getpass
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import click

from mesh.config import MeshSettings
from mesh.errors import MeshError, Unavailable
from services.meshctl.credentials import fresh_token, read_headers
from services.meshctl.edge import Edge, find_edge, parse_edge
from services.meshctl.edge_http import get
from services.meshctl.login_file import LoginFile
from services.meshctl.logins import log_in, log_in_by_device, log_out
from services.meshctl.output import output_option, show
from services.meshctl.users import read_password


def edge_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options --url and --ca-file, by which another edge than that of the running mesh is named."""
    ca_file = click.option(
        "--ca-file",
        envvar="MESH_EDGE_CA_FILE",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Certificates (PEM) that the edge at --url is trusted by.  [default: those of the system]",
    )
    url = click.option(
        "--url", envvar="MESH_EDGE_URL", help="The edge, such as https://HOST:8443.  [default: that of the mesh here]"
    )
    return url(ca_file(command))


def _edge(settings: MeshSettings, url: str | None, ca_file: Path | None) -> Edge:
    if url:
        return parse_edge(url, ca_file)
    if ca_file is not None:
        raise click.UsageError("--ca-file goes with --url.")
    return find_edge(settings)


def _tell(page: str, code: str) -> None:
    click.echo(f"Open {page} in any browser, and give it the code {code}. Waiting ...", err=True)


@click.command()
@click.option("--user", default=None, help="Name of the user.  [default: that of the account]")
@click.option("--password-file", type=click.File("r"), help="Read the password from a file, - for standard input.")
@click.option("--device", is_flag=True, help="Log in on a page of the edge, with any browser.")
@edge_options
@click.pass_obj
def login(
    settings: MeshSettings,
    user: str | None,
    password_file: TextIO | None,
    device: bool,
    url: str | None,
    ca_file: Path | None,
) -> None:
    """Log in. What the commands call through the edge is called in that name then."""
    if device and (user is not None or password_file is not None):
        raise click.UsageError("--device asks for user and password on its page.")
    edge = _edge(settings, url, ca_file)
    name, password = user or getpass.getuser(), ""
    if not device:
        password = read_password(password_file, confirm=False)

    async def run() -> str:
        made = await (log_in_by_device(edge, _tell) if device else log_in(edge, name, password))
        file = LoginFile(settings, edge)
        async with file.held():
            before = file.load()
            file.save(made)
        if before is not None:
            with suppress(MeshError):
                # It ends by itself, too, only later.
                await log_out(edge, before)
        return made.user

    click.echo(f"logged in as {asyncio.run(run())}")
    for variable in ("MESH_API_KEY", "MESH_TOKEN"):
        if os.environ.get(variable):
            click.echo(f"{variable} is set, and is shown before the login.", err=True)


@click.command()
@edge_options
@click.pass_obj
def logout(settings: MeshSettings, url: str | None, ca_file: Path | None) -> None:
    """End the login, and all tokens that came from it."""
    edge = _edge(settings, url, ca_file)

    async def run() -> str | None:
        file = LoginFile(settings, edge)
        async with file.held():
            known = file.load()
            file.forget()
        if known is None:
            return None
        try:
            await log_out(edge, known)
        except MeshError as err:
            raise Unavailable(
                f"The login of {known.user} is forgotten here, but the edge was not told to end it. {err.summary}",
                reason="LOGIN_NOT_ENDED",
                fix=f"It ends by itself; `meshctl users set-password {known.user}` ends all of the user's at once.",
            ) from err
        return known.user

    name = asyncio.run(run())
    click.echo(f"{name} is logged out" if name is not None else "Nobody has logged in.")


@click.command()
@edge_options
@output_option
@click.pass_obj
def whoami(settings: MeshSettings, url: str | None, ca_file: Path | None, output: str) -> None:
    """Show who one is at the edge."""

    async def ask() -> dict[str, Any]:
        edge = _edge(settings, url, ca_file)
        return await get(edge, "/v1/auth/whoami", dict(await read_headers(settings, edge)))

    facts = asyncio.run(ask())
    roles = ", ".join(facts.get("roles") or ()) or "none"
    show(output, facts, lambda: click.echo(f"{facts.get('principal', 'unknown')}, roles: {roles}"))


@click.command("access-token")
@edge_options
@click.pass_obj
def access_token(settings: MeshSettings, url: str | None, ca_file: Path | None) -> None:
    """Print a fresh access token, for curl: -H "authorization: Bearer $(meshctl access-token)"."""
    click.echo(asyncio.run(fresh_token(settings, _edge(settings, url, ca_file))))
