"""How long `meshctl up` takes to be ready, once everything is installed."""

import shutil
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.mesh_under_test import EXAMPLE, running_mesh
from benchmarks.report import Figure, at_most

REPETITIONS = 3
LIMIT = 10.0


async def measure() -> list[Figure]:
    """The example mesh with an empty state directory, and with that of an earlier run."""
    cold, warm = [], []
    for _ in range(REPETITIONS):
        directory = Path(tempfile.mkdtemp(prefix="am-", dir="/tmp"))
        try:
            with running_mesh(EXAMPLE, state_dir=directory) as mesh:
                cold.append(mesh.ready_seconds)
            with running_mesh(EXAMPLE, state_dir=directory) as mesh:
                warm.append(mesh.ready_seconds)
        finally:
            shutil.rmtree(directory, ignore_errors=True)
    baseline = f"median of {REPETITIONS}, from the start of the command"
    return [
        at_most("time to ready, first start", round(median(cold), 2), "s", LIMIT, baseline=baseline),
        at_most("time to ready, later start", round(median(warm), 2), "s", LIMIT, baseline=baseline),
    ]
