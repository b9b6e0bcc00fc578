"""`python -m services.von_neumann`: serve the agent at MESH_LISTEN until SIGTERM."""

import os
import sys

# structlog imports rich for its console output, which JSON logs never use.
sys.modules.setdefault("rich", None)  # type: ignore[arg-type]

from mesh.runtime import run_program  # noqa: E402
from services.von_neumann import app  # noqa: E402
from services.von_neumann.skills import NAME  # noqa: E402

if __name__ == "__main__":
    sys.exit(run_program(app.run, service=os.environ.get("MESH_SERVICE") or NAME))
