"""Finding Consul on this machine, or fetching it."""

import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mesh.discovery.debian_package import missing_for_packages, unpack_package
from mesh.errors import FailedPrecondition

# The last release of Debian that carries Consul (1.8.7, with the web UI).
SUITE = "bullseye"
LOCK_TIMEOUT = 300.0

_WAYS_OUT = "Install Consul 1.8 or newer so that `consul` is in PATH, or set CONSUL_HTTP_ADDR to one that runs."


def find_consul(tools_dir: Path, *, progress: Callable[[str], None]) -> Path:
    """Give the path of a Consul binary: from PATH, else from `tools_dir`, else fetched into `tools_dir`.

    Blocks: fetching takes seconds (it is bounded); several processes may call it at once, one of them fetches.
    `progress` is told in a few words what takes time. Raises FailedPrecondition that says what is missing and the
    ways out. Nothing outside `tools_dir` is written.
    """
    in_path = shutil.which("consul")
    if in_path:
        return Path(in_path)
    binary = tools_dir / "consul"
    if _is_program(binary):
        return binary.absolute()
    try:
        tools_dir.mkdir(parents=True, exist_ok=True)
        with _lock(tools_dir / ".consul.lock", progress):
            if not _is_program(binary):
                _fetch(binary, progress)
    except OSError as err:
        raise FailedPrecondition(
            f"Consul cannot be fetched into {tools_dir}: {err.strerror or err}.", reason="NO_CONSUL", fix=_WAYS_OUT
        ) from err
    return binary.absolute()


def _fetch(binary: Path, progress: Callable[[str], None]) -> None:
    lacking = missing_for_packages()
    if lacking:
        raise FailedPrecondition(
            f"There is no `consul` in PATH, and this machine cannot fetch it: it lacks {lacking}.",
            reason="NO_CONSUL",
            fix=_WAYS_OUT,
        )
    with tempfile.TemporaryDirectory(prefix=".consul-", dir=binary.parent) as folder:
        try:
            root = unpack_package("consul", SUITE, Path(folder).absolute(), progress=progress)
        except FailedPrecondition as err:
            raise FailedPrecondition(
                f"There is no `consul` in PATH, and fetching it failed. {err.summary}",
                reason="NO_CONSUL",
                fix=_WAYS_OUT,
            ) from err
        found = root / "usr/bin/consul"
        version = _version(found)
        found.replace(binary)
    progress(f"fetched {version}")


def _version(binary: Path) -> str:
    """Run the binary; a wrong architecture or a missing library shows here and not later."""
    try:
        done = subprocess.run(
            (str(binary), "version"), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError) as err:
        raise FailedPrecondition(
            f"The Consul that was fetched does not run here: {err}.", reason="NO_CONSUL", fix=_WAYS_OUT
        ) from err
    return done.stdout.partition("\n")[0]


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


@contextmanager
def _lock(path: Path, progress: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock file; the kernel lets go of it when a process dies. The file stays."""
    give_up = time.monotonic() + LOCK_TIMEOUT
    has_told = False
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise FailedPrecondition(
                        f"Another process holds {path} for {LOCK_TIMEOUT:g} s.",
                        reason="NO_CONSUL",
                        fix="Wait for it, or end it.",
                    ) from None
            if not has_told:
                progress("waiting for another process that fetches Consul")
                has_told = True
            time.sleep(0.1)
        yield
