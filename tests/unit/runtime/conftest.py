import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import structlog

from mesh.runtime import ChildSpec

Python = Callable[..., ChildSpec]
Logs = list[dict[str, object]]


@pytest.fixture
def python() -> Python:
    """Builds the spec of a child that runs a piece of Python."""

    def build(code: str, **changes: object) -> ChildSpec:
        return ChildSpec(name="probe", command=(sys.executable, "-c", code), **{"env": {}, "cwd": None, **changes})

    return build


@pytest.fixture
def logs() -> Iterator[Logs]:
    with structlog.testing.capture_logs() as lines:
        yield lines


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], Awaitable[None]]:
    """Waits until a condition holds, for at most 10 seconds."""

    async def wait(condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            # Processes outside of this one tell nothing; there is only looking again.
            while not condition():
                await asyncio.sleep(0.01)

    return wait


@pytest.fixture
def is_alive() -> Callable[[int], bool]:
    """Tells whether a process runs; one that only waits to be reaped does not."""

    def look(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_bytes().rsplit(b")", 1)[1].split()[0] not in (b"Z", b"X")
        except OSError:
            return False

    return look


@pytest.fixture
def has_zombies() -> Callable[[], bool]:
    """Tells whether this process has children that nobody has waited for."""

    def look() -> bool:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_bytes().rsplit(b")", 1)[1].split()
                except OSError:
                    continue
                if fields[0] == b"Z" and int(fields[1]) == os.getpid():
                    return True
        return False

    return look
