"""What /proc knows of processes. Linux only, as is the rest of this room; see proc(5)."""

import os
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """One process at one moment; `started` is in clock ticks since boot and tells a pid from its next user."""

    pid: int
    parent: int
    group: int
    session: int
    started: int
    is_zombie: bool


def read_process(pid: int) -> Process | None:
    """The process with that pid, or None when there is none (any more)."""
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    # The name, in parentheses, may hold anything, parentheses and spaces included.
    fields = stat[stat.rindex(b")") + 2 :].split()
    return Process(pid, int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]), fields[0] in (b"Z", b"X"))


def list_processes() -> tuple[Process, ...]:
    """All processes of this machine, or of this container."""
    found = (read_process(int(name)) for name in os.listdir(_PROC) if name.isdigit())  # noqa: PTH208 - names only
    return tuple(process for process in found if process is not None)


def read_environment(pid: int, name: str) -> str:
    """A variable of the environment that a process was started with; empty when it is not there or not readable."""
    prefix = name.encode() + b"="
    try:
        variables = (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    return next((v[len(prefix) :].decode(errors="replace") for v in variables if v.startswith(prefix)), "")


def has_living_member(group: int) -> bool:
    """Whether a process group has a member that is not just waiting to be reaped."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return any(process.group == group and not process.is_zombie for process in list_processes())
