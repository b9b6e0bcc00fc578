"""`python -m services.control_plane`: serve until SIGTERM. Its settings are those of mesh.config.MeshSettings."""

import sys

from mesh.config import MeshSettings
from mesh.runtime import run_program
from services.control_plane import app


def main() -> int:
    """Run the control plane; the exit status is 0 after SIGTERM and 1 after an error."""
    return run_program(lambda stop: app.run(MeshSettings.from_environment(), stop), service=app.NAME)


if __name__ == "__main__":
    sys.exit(main())
