"""`python -m services.gateway`: serve at MESH_LISTEN until SIGTERM. `meshctl up` starts it behind the edge Envoy."""

import sys

# structlog imports rich for its console output, which JSON logs never use.
sys.modules.setdefault("rich", None)  # type: ignore[arg-type]

from mesh.runtime import run_program  # noqa: E402
from services.gateway import app  # noqa: E402


def main() -> int:
    """Run the gateway; the exit status is 0 after SIGTERM and 1 after an error."""
    return run_program(app.run, service="gateway")


if __name__ == "__main__":
    sys.exit(main())
