"""What an error of a command looks like, and its exit status: 0 ok, 1 failed, 2 usage, 3 unreachable."""

import click
import grpc

from mesh.errors import InvalidInput, MeshError, Unavailable
from mesh.rpc import error_from_rpc

FAILED, USAGE, UNREACHABLE, INTERRUPTED = 1, 2, 3, 130


def leaves_of(error: BaseException) -> list[BaseException]:
    """The single errors in a group of errors; the error itself when it is none."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves_of(inner)]
    return [error]


def mesh_errors_of(error: BaseException) -> list[MeshError] | None:
    """The errors as MeshErrors, or None when one of them is a defect."""
    found: list[MeshError] = []
    for leaf in leaves_of(error):
        if isinstance(leaf, MeshError):
            found.append(leaf)
        elif isinstance(leaf, grpc.RpcError):
            found.append(error_from_rpc(leaf))
        else:
            return None
    return found


def exit_status_of(errors: list[MeshError]) -> int:
    """The exit status for errors that ended a command."""
    if any(isinstance(error, Unavailable) for error in errors):
        return UNREACHABLE
    return USAGE if errors and all(isinstance(error, InvalidInput) for error in errors) else FAILED


def print_errors(errors: list[MeshError]) -> None:
    """Print each error once, on standard error."""
    for text in dict.fromkeys(str(error) for error in errors):
        click.echo(f"{click.style('error:', fg='red', bold=True)} {text}", err=True)
