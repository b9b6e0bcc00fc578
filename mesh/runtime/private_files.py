"""Files that hold secrets: 0600 from their first byte, replaced as a whole, and written by one process at a time."""

import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mesh.errors import FailedPrecondition
from mesh.telemetry import get_logger

_log = get_logger(__name__)

_LARGEST = 16 << 20
_LOCK_TIMEOUT = 10.0
_LOCK_POLL = 0.005
_LEFTOVERS = ".*.new"


def make_private_dir(path: Path) -> None:
    """Make a folder that only its owner can enter; raises FailedPrecondition when that is not possible."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
    except OSError as err:
        raise _not_writable(path, err) from err


@contextmanager
def hold_private_dir(path: Path, *, timeout: float = _LOCK_TIMEOUT) -> Iterator[None]:
    """Make a private folder and keep all other holders of it out, those in other threads and processes, too.

    What a holder that was killed has left half-written is removed. Blocks up to `timeout` seconds. Raises
    FailedPrecondition when the folder cannot be written, or is held by another for too long.
    """
    make_private_dir(path)
    lock = path / "lock"
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as err:
        raise _not_writable(lock, err) from err
    try:
        _lock(descriptor, lock, timeout)
        for leftover in path.glob(_LEFTOVERS):
            with suppress(OSError):
                leftover.unlink()
        yield
    finally:
        os.close(descriptor)


def write_file(path: Path, content: bytes, *, mode: int) -> None:
    """Replace a file in one step, on disk when this returns; raises FailedPrecondition when that is not possible."""
    # A name of its own for each writer: with a fixed one, a second writer's half file could be put in place.
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        _sync_dir(path.parent)
    except OSError as err:
        with suppress(OSError):
            fresh.unlink()
        raise _not_writable(path, err) from err


def remove_file(path: Path) -> None:
    """Remove a file if it is there; raises FailedPrecondition when that is not possible."""
    try:
        path.unlink(missing_ok=True)
    except OSError as err:
        raise _not_writable(path, err) from err


def read_secret(path: Path) -> bytes | None:
    """The content of a secret file, None when there is none; loose permissions are tightened.

    Raises FailedPrecondition when it cannot be read, is no file, or is far too large.
    """
    fix = "Check its owner and permissions."
    try:
        # Without O_NONBLOCK a pipe in the file's place would hold us for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
                raise FailedPrecondition(
                    f"{path} is not a file of ours.", field=str(path), fix="Move it away, and see who has put it there."
                )
            if loose := stat.S_IMODE(status.st_mode) & 0o077:
                os.fchmod(file.fileno(), 0o600)
                _log.warning("secret_file_tightened", path=str(path), was=oct(0o600 | loose))
            return file.read(_LARGEST)
    except FileNotFoundError:
        return None
    except OSError as err:
        raise FailedPrecondition(f"{path} cannot be read: {err.strerror or err}.", field=str(path), fix=fix) from err


def _lock(descriptor: int, path: Path, timeout: float) -> None:
    ends_at = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as err:
            if time.monotonic() >= ends_at:
                raise FailedPrecondition(
                    f"Another process has held {path} for {timeout:g} s.",
                    reason="STATE_LOCKED",
                    field=str(path),
                    fix="End that process (`fuser` names it), or choose another folder with MESH_STATE_DIR.",
                ) from err
            time.sleep(_LOCK_POLL)
        except OSError as err:
            raise _not_writable(path, err) from err


def _sync_dir(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _not_writable(path: Path, err: OSError) -> FailedPrecondition:
    return FailedPrecondition(
        f"{path} cannot be written: {err.strerror or err}.",
        reason="STATE_NOT_WRITABLE",
        field=str(path),
        fix="Make the folder writable, free some space, or choose another with MESH_STATE_DIR.",
    )
