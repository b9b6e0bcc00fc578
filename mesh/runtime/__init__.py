"""The life of a process and of its children.

    run_program ──> logs, telemetry, signals ──> main(stop)
    supervise ──> open_child ──> Child          one process group each; nothing is left behind
    adopt_orphans                               what lost its parent comes to us, and is ended with its child

May import telemetry and below.
"""

from mesh.runtime.backoff import Backoff
from mesh.runtime.child import Child, ChildSpec, open_child
from mesh.runtime.orphans import adopt_orphans
from mesh.runtime.program import run_program
from mesh.runtime.stop import Stop
from mesh.runtime.supervise import supervise

__all__ = ["Backoff", "Child", "ChildSpec", "Stop", "adopt_orphans", "open_child", "run_program", "supervise"]
