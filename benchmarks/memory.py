"""What the example mesh takes of memory, process by process."""

from collections import defaultdict
from pathlib import Path
from statistics import median

from benchmarks.mesh_under_test import EXAMPLE, running_mesh
from benchmarks.report import Figure, at_most

# Sign in the command line -> what it is; the first that fits.
KINDS = {
    "envoy": "sidecar",
    "services.mcp_bridge": "bridge",
    "services.control_plane": "control plane",
    "services.meshctl": "meshctl up (all launchers)",
    "consul": "Consul",
    "services.gateway": "gateway application",
    "services.financial": "MCP server",
    "services.utilities": "MCP server",
    "services.von_neumann": "agent",
}
LIMITS = {
    "sidecar": 75.0,
    "bridge": 70.0,
    "gateway application": 70.0,
    "MCP server": 70.0,
    "agent": 70.0,
    "control plane": 130.0,
}
WHOLE = 1024.0


async def measure() -> list[Figure]:
    """Resident memory of each process after `up` has made its call, and the sum with shared pages counted once."""
    with running_mesh(EXAMPLE) as mesh:
        resident: dict[str, list[float]] = defaultdict(list)
        whole = 0.0
        for pid, command in mesh.processes().items():
            kind = next((kind for sign, kind in KINDS.items() if sign in command), "other")
            rss, pss = _megabytes(pid)
            resident[kind].append(rss)
            whole += pss
    figures = []
    for kind, values in resident.items():
        name = f"memory of a {kind}" if kind in LIMITS else f"memory of {kind}"
        baseline = f"largest of {len(values)}, median {median(values):.1f} MB"
        if kind in LIMITS:
            figures.append(at_most(name, round(max(values), 1), "MB", LIMITS[kind], baseline=baseline))
        else:
            figures.append(Figure(name, round(max(values), 1), "MB", baseline))
    baseline = f"{sum(map(len, resident.values()))} processes, shared pages counted once"
    figures.append(at_most("memory of the example mesh", round(whole, 1), "MB", WHOLE, baseline=baseline))
    return figures


def _megabytes(pid: int) -> tuple[float, float]:
    """Resident and proportional set size, in units of 2**20 bytes."""
    lines = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if "kB" in line
    )
    return int(lines["Rss"].split()[0]) / 1024, int(lines["Pss"].split()[0]) / 1024
