"""`meshctl demo`: start the example mesh, show what it can do, and stop it."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click

from mesh.config import MeshSettings
from mesh.errors import FailedPrecondition
from services.meshctl.logs import logs_dir
from services.meshctl.state_lock import find_holder

_MESHCTL = (sys.executable, "-m", "services.meshctl.main")
_STEP_TIMEOUT = 60.0
_STOP_TIMEOUT = 60.0

_STEPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("What runs", ("status",)),
    ("The tools of an MCP server", ("tools", "financial")),
    (
        "One of them, called through two sidecars",
        ("call", "financial", "npv", "rate=0.1", "cash_flows=[-1000,400,400,400]"),
    ),
    ("The agents and their skills", ("agents",)),
    (
        "An agent that calls a tool of another service through the mesh",
        ("call", "von-neumann", "project-valuation", '{"rate": 0.1, "cash_flows": [-1000, 400, 500, 600]}'),
    ),
)
_NEW_SERVER = ("demo-tools", sys.executable, "-m", "services.utilities")
_MORE_STEPS = (
    ("It can be called at once", ("call", "demo-tools", "convert_units", "value=3", "from_unit=mile", "to_unit=km")),
    ("What Envoy was told, and what it has acknowledged", ("proxies",)),
    ("Who is who", ("certs",)),
)


@click.command()
@click.pass_obj
def demo(settings: MeshSettings) -> None:
    """Take a tour of the example mesh; starts it first and stops it afterwards, unless it runs already."""
    with _running_mesh(settings):
        for title, arguments in _STEPS:
            _show(title, arguments)
        name, *command = _NEW_SERVER
        joining = ("run", "mcp", name, "--", *command)
        with _open_meshctl(joining, f"{name} is in the mesh", title="Another MCP server joins the running mesh"):
            for title, arguments in _MORE_STEPS:
                _show(title, arguments)
    click.echo("\nThat was the tour.")


@contextmanager
def _running_mesh(settings: MeshSettings) -> Iterator[None]:
    if find_holder(settings) is not None:
        yield
        return
    with _open_meshctl(("up",), "s  ready", title="Starting the example mesh"):
        try:
            yield
        finally:
            click.echo()
    click.echo(f"Its logs are in {logs_dir(settings)}.")


def _show(title: str, arguments: tuple[str, ...]) -> None:
    """Run one command of the tour; raises FailedPrecondition when it fails."""
    _print_command(title, arguments)
    done = subprocess.run([*_MESHCTL, *arguments], timeout=_STEP_TIMEOUT, check=False)
    if done.returncode:
        raise FailedPrecondition(
            f"`meshctl {arguments[0]}` ended with status {done.returncode}.", fix="Its output above says why."
        )


@contextmanager
def _open_meshctl(arguments: tuple[str, ...], sign: str, *, title: str) -> Iterator[None]:
    """Run a command that stays, from the line that holds `sign` on, until the block ends."""
    _print_command(title, arguments)
    process = subprocess.Popen([*_MESHCTL, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            click.echo(line.rstrip())
            if sign in line:
                break
        else:
            raise FailedPrecondition(
                f"`meshctl {arguments[0]}` ended with status {process.wait(_STOP_TIMEOUT)}.",
                fix="Its output above says why.",
            )
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)
        for line in process.stdout:
            click.echo(line.rstrip())
        process.wait(_STOP_TIMEOUT)


def _print_command(title: str, arguments: tuple[str, ...]) -> None:
    words = ["python" if word == sys.executable else word for word in arguments]
    click.secho(f"\n{title}", bold=True)
    click.secho(f"$ meshctl {shlex.join(words)}", dim=True)
