"""`meshctl users`: people who log in with a password."""

import asyncio
from typing import Any, TextIO

import click
from google.protobuf.json_format import MessageToDict

from agentmesh.access.v1 import access_pb2
from agentmesh.access.v1 import access_service_pb2 as pb
from mesh.config import MeshSettings
from services.meshctl.connection import TIMEOUT
from services.meshctl.keys import open_access
from services.meshctl.output import output_option, print_table, show

_password_option = click.option(
    "--password-file", type=click.File("r"), help="Read the password from a file, - for standard input."
)
_role_option = click.option("--role", "roles", multiple=True, help="A role that the user has; may be repeated.")


def read_password(file: TextIO | None, *, confirm: bool) -> str:
    """The password: the first line of a file, or asked for at the terminal. Raises UsageError when it is no UTF-8."""
    try:
        if file is not None:
            password = file.readline().rstrip("\r\n")
        else:
            password = click.prompt("Password", hide_input=True, confirmation_prompt=confirm)
        password.encode()
    except UnicodeError as err:
        raise click.UsageError("The password is no text in UTF-8.") from err
    return password


@click.group()
def users() -> None:
    """Make, list, change and delete users."""


@users.command("create")
@click.argument("name")
@_role_option
@_password_option
@output_option
@click.pass_obj
def create_user(
    settings: MeshSettings, name: str, roles: tuple[str, ...], password_file: TextIO | None, output: str
) -> None:
    """Make the user NAME."""
    password = read_password(password_file, confirm=True)
    user = _call(settings, "CreateUser", pb.CreateUserRequest(name=name, password=password, roles=roles)).user
    _show(output, user, f"{name} can log in: `meshctl login --user {name}`.")


@users.command("set-password")
@click.argument("name")
@_password_option
@output_option
@click.pass_obj
def set_password(settings: MeshSettings, name: str, password_file: TextIO | None, output: str) -> None:
    """Give NAME another password; all logins end."""
    password = read_password(password_file, confirm=True)
    user = _call(settings, "UpdateUser", pb.UpdateUserRequest(name=name, password=password)).user
    _show(output, user, f"{name} has another password.")


@users.command("set-roles")
@click.argument("name")
@_role_option
@output_option
@click.pass_obj
def set_roles(settings: MeshSettings, name: str, roles: tuple[str, ...], output: str) -> None:
    """Give NAME these roles and no others."""
    user = _call(settings, "UpdateUser", pb.UpdateUserRequest(name=name, roles=pb.Roles(names=roles))).user
    _show(output, user, f"{name} has the roles: {', '.join(user.roles) or 'none'}.")


@users.command("disable")
@click.argument("name")
@output_option
@click.pass_obj
def disable_user(settings: MeshSettings, name: str, output: str) -> None:
    """Let NAME in no more; tokens end within a second."""
    user = _call(settings, "UpdateUser", pb.UpdateUserRequest(name=name, disabled=True)).user
    _show(output, user, f"{name} cannot log in.")


@users.command("enable")
@click.argument("name")
@output_option
@click.pass_obj
def enable_user(settings: MeshSettings, name: str, output: str) -> None:
    """Let NAME in again."""
    user = _call(settings, "UpdateUser", pb.UpdateUserRequest(name=name, disabled=False)).user
    _show(output, user, f"{name} can log in.")


@users.command("delete")
@click.argument("name")
@click.pass_obj
def delete_user(settings: MeshSettings, name: str) -> None:
    """Remove NAME."""
    _call(settings, "DeleteUser", pb.DeleteUserRequest(name=name))
    click.echo(f"{name} is gone.")


@users.command("list")
@output_option
@click.pass_obj
def list_users(settings: MeshSettings, output: str) -> None:
    """List all users."""
    found: list[access_pb2.User] = list(_call(settings, "ListUsers", pb.ListUsersRequest()).users)
    rows = [(user.name, ", ".join(user.roles) or "-", "disabled" if user.disabled else "good") for user in found]
    show(
        output,
        [MessageToDict(user, preserving_proto_field_name=True) for user in found],
        lambda: print_table(("user", "roles", "state"), rows, empty="There are no users. `meshctl users create`."),
    )


def _show(output: str, user: access_pb2.User, said: str) -> None:
    show(output, MessageToDict(user, preserving_proto_field_name=True), lambda: click.echo(said))


def _call(settings: MeshSettings, method: str, request: Any) -> Any:
    async def call() -> Any:
        async with open_access(settings) as access:
            return await getattr(access, method)(request, timeout=TIMEOUT)

    return asyncio.run(call())
