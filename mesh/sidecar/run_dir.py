"""The folder of one running member: its sockets, its secrets and Envoy's bootstrap."""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mesh.errors import AlreadyExists, FailedPrecondition, InvalidInput
from mesh.runtime.private_files import make_private_dir

LONGEST_SOCKET_PATH = 100
"""Bytes. The kernel takes 107; mesh.rpc keeps some for servers that add to the name."""

_INSTANCE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """Where things of one member are."""

    path: Path

    @property
    def app_socket(self) -> Path:
        return self.path / "app.sock"

    @property
    def outbound_socket(self) -> Path:
        return self.path / "out.sock"

    @property
    def admin_socket(self) -> Path:
        return self.path / "admin.sock"

    @property
    def guard_socket(self) -> Path:
        return self.path / "guard.sock"

    @property
    def web_socket(self) -> Path:
        return self.path / "web.sock"

    @property
    def sockets(self) -> tuple[Path, ...]:
        """All unix sockets that there may be."""
        return (self.app_socket, self.outbound_socket, self.admin_socket, self.guard_socket, self.web_socket)

    @property
    def secrets(self) -> Path:
        return self.path / "secrets"

    @property
    def grpc(self) -> Path:
        return self.path / "grpc"

    @property
    def bootstrap(self) -> Path:
        return self.path / "bootstrap.json"


@contextmanager
def open_run_dir(state_dir: Path, instance: str, *, is_kept: bool) -> Iterator[RunDirectory]:
    """Make and hold the folder of a member, 0700. At the end its sockets are removed; without `is_kept` all of it.

    Raises AlreadyExists when a living member has it, InvalidInput when its path is too long for sockets or `instance`
    is no name, FailedPrecondition when it cannot be written.
    """
    if _INSTANCE.fullmatch(instance) is None:
        raise InvalidInput(
            f"{instance!r} is no name of an instance.",
            field="instance",
            fix="Use letters, digits, dots, dashes and underscores, at most 128.",
        )
    directory = RunDirectory(state_dir.absolute() / "run" / instance)
    check_socket_path(directory.admin_socket, field="MESH_STATE_DIR", fix="Use a state directory with a shorter path.")
    make_private_dir(directory.path)
    with _locked(directory.path, instance):
        # What a member that was killed has left: not every server can bind over it.
        _remove_sockets(directory)
        try:
            yield directory
        finally:
            if is_kept:
                with suppress(FailedPrecondition):
                    _remove_sockets(directory)
            else:
                shutil.rmtree(directory.path, ignore_errors=True)


def check_socket_path(path: Path, *, field: str, fix: str) -> None:
    """Raise InvalidInput when the path is too long for a unix socket."""
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
        raise InvalidInput(
            f"{path} is too long for a unix socket, whose path has at most {LONGEST_SOCKET_PATH} bytes.",
            field=field,
            fix=fix,
        )


def _remove_sockets(directory: RunDirectory) -> None:
    for path in directory.sockets:
        try:
            path.unlink(missing_ok=True)
        except OSError as err:
            raise _not_writable(path, err) from err


@contextmanager
def _locked(path: Path, instance: str) -> Iterator[None]:
    try:
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as err:
        raise _not_writable(path, err) from err
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            raise AlreadyExists(
                f"The instance {instance} runs already.",
                reason="INSTANCE_RUNS",
                field="instance",
                fix="Stop it, or choose another name.",
            ) from err
        except OSError as err:
            raise _not_writable(path, err) from err
        yield
    finally:
        os.close(lock)


def _not_writable(path: Path, err: OSError) -> FailedPrecondition:
    return FailedPrecondition(
        f"{path} cannot be written: {err.strerror or err}.",
        reason="STATE_NOT_WRITABLE",
        field="MESH_STATE_DIR",
        fix="Make it writable, or choose another.",
    )
