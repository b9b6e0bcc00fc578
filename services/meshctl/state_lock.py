"""The lock of a state directory: one `up` at a time, and who it is."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mesh.config import MeshSettings
from mesh.errors import AlreadyExists, FailedPrecondition

_TRIES = 5
_PAUSE = 0.1


@contextmanager
def hold_state_dir(settings: MeshSettings) -> Iterator[None]:
    """Hold the state directory while the context is open; it is made when it is not there.

    The kernel gives the lock back when this process ends, however it ends. Raises AlreadyExists when another process
    holds it, FailedPrecondition when the directory cannot be used.
    """
    directory = settings.state_dir
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(_path(settings), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as err:
        raise _unusable(directory, err) from err
    try:
        if not _take(lock):
            holder = _read_pid(lock)
            raise AlreadyExists(
                f"A mesh runs in {directory} already{f' (process {holder})' if holder else ''}.",
                fix="Stop it with `meshctl down`, or use another --state-dir.",
            )
        # On a full disk the holder is not named, and nothing worse.
        with suppress(OSError):
            os.ftruncate(lock, 0)
            os.pwrite(lock, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(lock)


def find_holder(settings: MeshSettings) -> int | None:
    """The process that runs the mesh of the state directory, or is starting it; None when there is none.

    What a killed process has left behind does not count. Raises FailedPrecondition when it cannot be found out.
    """
    try:
        lock = os.open(_path(settings), os.O_RDWR | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as err:
        raise _unusable(settings.state_dir, err) from err
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read_pid(lock)
    finally:
        os.close(lock)
    return None


def _take(lock: int) -> bool:
    for attempt in range(_TRIES):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # `find_holder` of another command has it for a moment.
            if attempt < _TRIES - 1:
                time.sleep(_PAUSE)
        else:
            return True
    return False


def _read_pid(lock: int) -> int | None:
    try:
        return int(os.pread(lock, 20, 0))
    except (OSError, ValueError):
        return None


def _path(settings: MeshSettings) -> Path:
    return settings.state_dir / "lock"


def _unusable(directory: Path, err: OSError) -> FailedPrecondition:
    return FailedPrecondition(
        f"{directory} cannot be used: {err.strerror}.",
        field="state-dir",
        fix="Make it writable, or name another with --state-dir or MESH_STATE_DIR.",
    )
