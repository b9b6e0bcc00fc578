"""`meshctl`: the command line of the mesh."""

import io
import os
import sys
from pathlib import Path

import click

import mesh
from mesh.config import MeshSettings
from mesh.errors import MeshError
from services.meshctl.audit import audit
from services.meshctl.authority import restore, revoke, root, rotate_root
from services.meshctl.call import call
from services.meshctl.can_i import can_i
from services.meshctl.canary import canary
from services.meshctl.changes import apply, diff, history, rollback
from services.meshctl.config import config
from services.meshctl.demo import demo
from services.meshctl.doctor import doctor
from services.meshctl.failures import FAILED, INTERRUPTED, USAGE, exit_status_of, mesh_errors_of, print_errors
from services.meshctl.forget import forget
from services.meshctl.inspect import agents, certs, tools
from services.meshctl.keys import keys
from services.meshctl.live_config import explain, get_document, watch_document
from services.meshctl.login import access_token, login, logout, whoami
from services.meshctl.logs import logs
from services.meshctl.proxies import proxies
from services.meshctl.run import run
from services.meshctl.secrets import secrets
from services.meshctl.status import status
from services.meshctl.token import token
from services.meshctl.token_keys import token_keys
from services.meshctl.up import down, up
from services.meshctl.users import users


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(mesh.__version__, prog_name="meshctl")
@click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the mesh keeps its state.  [default: $MESH_STATE_DIR or .mesh]",
)
@click.pass_context
def cli(context: click.Context, state_dir: Path | None) -> None:
    """Run a gRPC service mesh for AI agents and MCP servers, and look into it.

    Exit status: 0 ok, 1 failed, 2 usage, 3 unreachable.
    """
    if state_dir is not None:
        # Children (control plane, bridges) read the same environment.
        os.environ["MESH_STATE_DIR"] = str(state_dir.absolute())
    context.obj = MeshSettings.from_environment()


for _command in (root, rotate_root, revoke, restore):
    certs.add_command(_command)
for _command in (get_document, watch_document):
    config.add_command(_command)
for _command in (
    up,
    down,
    status,
    run,
    tools,
    call,
    agents,
    proxies,
    certs,
    token,
    forget,
    doctor,
    logs,
    canary,
    demo,
    config,
    secrets,
    keys,
    users,
    token_keys,
    can_i,
    login,
    logout,
    whoami,
    access_token,
    audit,
    apply,
    diff,
    history,
    rollback,
    explain,
):
    cli.add_command(_command)


def main() -> None:
    """The entry point; exits with the command's status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A server may answer with what the terminal's encoding has no word for; an escape is right in JSON, too.
            stream.reconfigure(errors="backslashreplace")
    try:
        # What ends by `context.exit` comes back as its status.
        status = cli.main(standalone_mode=False)
        sys.stdout.flush()
        if isinstance(status, int):
            sys.exit(status)
    except BrokenPipeError:
        # `meshctl logs | head`: the reader has seen enough. Python flushes again at its end, to nobody.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except click.UsageError as err:
        err.show()
        sys.exit(USAGE)
    except click.ClickException as err:
        err.show()
        sys.exit(err.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    except (MeshError, BaseExceptionGroup) as err:
        errors = mesh_errors_of(err)
        if errors is None:
            raise
        print_errors(errors)
        sys.exit(exit_status_of(errors))


if __name__ == "__main__":
    main()
