"""`python -m services.von_neumann`: serve the agent at MESH_LISTEN until SIGTERM."""

import sys

# structlog imports rich for its console output, which JSON logs never use.
sys.modules.setdefault("rich", None)  # type: ignore[arg-type]

from mesh.agent import run_agent  # noqa: E402
from services.von_neumann.skills import build_agent  # noqa: E402

if __name__ == "__main__":
    sys.exit(run_agent(build_agent()))
