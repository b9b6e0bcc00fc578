"""Starts a process that dies with this one.

A child is told to be killed when its parent dies (PR_SET_PDEATHSIG). Only the child itself can ask for that, between
fork and exec, hence a `preexec_fn`. Python warns of it where other threads run, and gRPC has several: a lock that one
of them holds at the moment of the fork stays locked in the child for ever. So the function only calls a C function that
was looked up before, through PyDLL, which does not even let go of the GIL: it imports nothing and takes no lock. The
alternatives are worse: a wrapper program (setpriv) is not everywhere, and a thread in the child that watches the parent
cannot be put into programs that are not ours.

The kernel sends the signal when the *thread* that forked ends, not the process (prctl(2), PR_SET_PDEATHSIG): children
must be started from the thread of the event loop, never from a pool.
"""

import ctypes
import errno
import os
import signal
import subprocess
from collections.abc import Mapping

from mesh.errors import InvalidInput, MeshError, ResourceExhausted
from mesh.runtime.signals import undo_inherited_signals

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37

_NO_ROOM = (errno.EAGAIN, errno.ENOMEM, errno.ENFILE, errno.EMFILE)

_prctl = ctypes.PyDLL(None).prctl
_prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
_prctl.restype = ctypes.c_int


def is_subreaper() -> bool:
    """Whether processes that lose their parent below this one become children of this one."""
    answer = ctypes.c_int(0)
    return bool(_prctl(_PR_GET_CHILD_SUBREAPER, ctypes.addressof(answer), 0, 0, 0) == 0) and bool(answer.value)


def set_subreaper(is_wished: bool) -> bool:
    """Ask the kernel to hand processes that lose their parent below this one to this one, or no longer.

    False when it cannot.
    """
    return bool(_prctl(_PR_SET_CHILD_SUBREAPER, int(is_wished), 0, 0, 0) == 0)


def spawn(
    command: tuple[str, ...], *, name: str, env: Mapping[str, str], cwd: str | None, pipe_stdin: bool
) -> subprocess.Popen[bytes]:
    """Start `command` in a session and process group of its own, its stdout and stderr being pipes.

    Returns when the program has been executed. Raises InvalidInput that says why it cannot be, and ResourceExhausted
    when the machine has no room for another process.
    """
    if not command:
        raise InvalidInput(
            f"There is no command for {name!r}.", field="command", fix="Give a program and its arguments."
        )
    parent = os.getpid()
    kill = int(signal.SIGKILL)

    def die_with_parent() -> None:
        _prctl(_PR_SET_PDEATHSIG, kill, 0, 0, 0)
        if os.getppid() != parent:
            # The parent died before the call above, and no signal will come.
            os._exit(127)

    undo_inherited_signals()
    try:
        return subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.PIPE if pipe_stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env=dict(env),
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - see the docstring of the module
        )
    except (OSError, ValueError) as err:
        raise _explain(err, command, cwd) from err


def _explain(err: OSError | ValueError, command: tuple[str, ...], cwd: str | None) -> MeshError:
    program = command[0]
    if isinstance(err, BlockingIOError) or (isinstance(err, OSError) and err.errno in _NO_ROOM):
        return ResourceExhausted(
            f"{program!r} cannot be started: {err.strerror}.", fix="Free memory, or raise the limit of processes."
        )
    if isinstance(err, ValueError):
        return InvalidInput(
            f"{program!r} cannot be started with these arguments or variables: {err}.",
            field="command",
            fix="Remove NUL characters from them, and = from the names of variables.",
        )
    if cwd is not None and err.filename == cwd:
        return InvalidInput(
            f"{program!r} cannot be started in {cwd}: {err.strerror}.", field="cwd", fix="Name a directory that exists."
        )
    if isinstance(err, FileNotFoundError):
        return InvalidInput(
            f"There is no command {program!r} on this machine.",
            reason="COMMAND_NOT_FOUND",
            field="command",
            fix="Check the spelling, install it, or give its full path.",
        )
    return InvalidInput(
        f"The command {program!r} cannot be started: {err.strerror}.",
        field="command",
        fix="Give a program that may be executed; a script needs a #! line.",
    )
