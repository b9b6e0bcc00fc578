"""The life of a process and of its children.

    run_program ──> logs, telemetry, signals ──> main(stop)
    open_supervised ──> supervise ──> open_child ──> Child          one process group each; nothing is left behind
    adopt_orphans                               what lost its parent comes to us, and is ended with its child

May import telemetry and below.
"""

from mesh.runtime.background import open_background
from mesh.runtime.backoff import Backoff
from mesh.runtime.child import Child, ChildSpec, open_child
from mesh.runtime.heap import keep_heap
from mesh.runtime.orphans import adopt_orphans
from mesh.runtime.program import run_program
from mesh.runtime.stop import Stop
from mesh.runtime.supervise import supervise
from mesh.runtime.supervised import Supervised, open_supervised

__all__ = [
    "Backoff",
    "Child",
    "ChildSpec",
    "Stop",
    "Supervised",
    "adopt_orphans",
    "keep_heap",
    "open_background",
    "open_child",
    "open_supervised",
    "run_program",
    "supervise",
]
