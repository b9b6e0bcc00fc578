"""Wires the agent."""

from mesh.agent import serve
from mesh.runtime import Stop
from services.von_neumann.computing import open_workers
from services.von_neumann.skills import build_agent


async def run(stop: Stop) -> None:
    """Serve until `stop` is set. Raises MeshError when MESH_LISTEN is not usable."""
    # The workers outlive the tasks that use them.
    async with open_workers() as workers:
        await serve(build_agent(workers), stop)
