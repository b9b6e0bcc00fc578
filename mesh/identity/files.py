"""Files that hold secrets: 0600 from their first byte, and replaced as a whole."""

import os
import stat
from contextlib import suppress
from pathlib import Path

from mesh.errors import FailedPrecondition
from mesh.telemetry import get_logger

_log = get_logger(__name__)


def make_private_dir(path: Path) -> None:
    """Make a folder that only its owner can enter; raises FailedPrecondition when that is not possible."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
    except OSError as err:
        raise _not_writable(path, err) from err


def write_file(path: Path, content: bytes, *, mode: int) -> None:
    """Replace a file in one step, on disk when this returns; raises FailedPrecondition when that is not possible."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        with suppress(FileNotFoundError):
            fresh.unlink()
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as err:
        with suppress(OSError):
            fresh.unlink()
        raise _not_writable(path, err) from err


def read_secret(path: Path) -> bytes | None:
    """The content of a secret file, None when there is none; loose permissions are tightened.

    Raises FailedPrecondition when it cannot be read.
    """
    try:
        if loose := stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o600)
            _log.warning("secret_file_tightened", path=str(path), was=oct(0o600 | loose))
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as err:
        raise FailedPrecondition(
            f"{path} cannot be read: {err.strerror}.", field=str(path), fix="Check its owner and permissions."
        ) from err


def _not_writable(path: Path, err: OSError) -> FailedPrecondition:
    return FailedPrecondition(
        f"{path} cannot be written: {err.strerror or err}.",
        reason="STATE_NOT_WRITABLE",
        field=str(path),
        fix="Make the folder writable, free some space, or choose another with MESH_STATE_DIR.",
    )
