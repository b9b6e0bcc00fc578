"""The folder of one running member: its sockets, its secrets and Envoy's bootstrap."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mesh.errors import AlreadyExists, FailedPrecondition, InvalidInput
from mesh.identity.files import make_private_dir

# sockaddr_un.sun_path holds 108 bytes with its final zero.
_LONGEST_SOCKET_PATH = 107


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
    def secrets(self) -> Path:
        return self.path / "secrets"


@contextmanager
def open_run_dir(state_dir: Path, instance: str, *, is_kept: bool) -> Iterator[RunDirectory]:
    """Make and hold the folder of a member, 0700; without `is_kept` it is removed at the end.

    Raises AlreadyExists when a living member has it, InvalidInput when its path is too long for sockets.
    """
    directory = RunDirectory(state_dir / "run" / instance)
    if len(os.fsencode(directory.admin_socket)) > _LONGEST_SOCKET_PATH:
        raise InvalidInput(
            f"{directory.admin_socket} is too long for a unix socket, whose path has at most 107 bytes.",
            field="MESH_STATE_DIR",
            fix="Use a state directory with a shorter path.",
        )
    make_private_dir(directory.path)
    with _locked(directory.path, instance):
        try:
            # What a member that was killed has left: Envoy and gRPC would refuse to bind.
            for socket in (directory.app_socket, directory.outbound_socket, directory.admin_socket):
                socket.unlink(missing_ok=True)
            yield directory
        finally:
            if not is_kept:
                shutil.rmtree(directory.path, ignore_errors=True)


@contextmanager
def _locked(path: Path, instance: str) -> Iterator[None]:
    try:
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as err:
        raise FailedPrecondition(
            f"{path} cannot be written: {err.strerror}.",
            reason="STATE_NOT_WRITABLE",
            field="MESH_STATE_DIR",
            fix="Make it writable, or choose another.",
        ) from err
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            raise AlreadyExists(
                f"The instance {instance} runs already.", field="instance", fix="Stop it, or choose another name."
            ) from err
        yield
    finally:
        os.close(lock)
