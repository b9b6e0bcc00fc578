"""Where a long-running meshctl keeps its logs, so that the terminal is free for people."""

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mesh.errors import FailedPrecondition
from mesh.telemetry import get_logger

_LARGEST = 20 << 20
_LOOK_EVERY = 60.0

_log = get_logger(__name__)


@contextmanager
def stderr_to(path: Path) -> Iterator[None]:
    """Send standard error, that of libraries included, to the end of a 0600 file while the context is open."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _rotate(path)
    except OSError as err:
        raise FailedPrecondition(
            f"{path} cannot be written: {err.strerror}.",
            field="state-dir",
            fix="Make the folder writable, free some space, or name another with --state-dir.",
        ) from err
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        _redirect(path)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


async def keep_small(path: Path) -> None:
    """Begin a new file whenever the log has grown past 20 MB; the one before is kept as PATH.1."""
    while True:
        await asyncio.sleep(_LOOK_EVERY)
        try:
            _keep_small(path)
        except OSError as err:
            # A full disk, or a folder that was taken away, is no reason to stop the mesh.
            _log.warning("log_not_rotated", path=str(path), error=str(err))


def _keep_small(path: Path) -> None:
    if not path.exists() or path.stat().st_size > _LARGEST:
        _rotate(path)
        _redirect(path)


def _rotate(path: Path) -> None:
    if path.exists() and path.stat().st_size > _LARGEST:
        path.replace(path.with_name(f"{path.name}.1"))


def _redirect(path: Path) -> None:
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(opened, 2)
    os.close(opened)
