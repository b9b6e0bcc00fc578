"""What a process inherits of signals, and should not.

Blocked and ignored signals pass from parent to child, even through exec (signal(7)): a launcher that blocks SIGCHLD or
ignores it, which some do for their own ease, leaves us deaf for the end of our children, or without their exit status,
and one that blocks SIGTERM makes us impossible to stop.
"""

import signal
import threading

_NEEDED = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)


def undo_inherited_signals() -> None:
    """Let SIGCHLD, SIGTERM and SIGINT come through, and children be waited for. Harmless to repeat.

    Only in the main thread, which is the one that Python lets handle signals; elsewhere it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _NEEDED)
    # Where it is ignored, the kernel reaps children by itself and their status is lost (waitpid(2)).
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
