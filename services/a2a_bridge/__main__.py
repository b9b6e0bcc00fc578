"""`python -m services.a2a_bridge --url URL`: serve an agent of A2A to the mesh until SIGTERM."""

import sys

# structlog imports rich for its console output, which JSON logs never use.
sys.modules.setdefault("rich", None)  # type: ignore[arg-type]

from mesh.errors import MeshError  # noqa: E402
from mesh.runtime import run_program  # noqa: E402
from services.a2a_bridge import app  # noqa: E402
from services.a2a_bridge.settings import BridgeSettings  # noqa: E402


def main() -> int:
    """Run the bridge; the exit status is 0 after SIGTERM, 1 after an error and 2 for arguments that make no sense."""
    try:
        settings = BridgeSettings.parse(sys.argv[1:])
    except MeshError as err:
        print(f"a2a_bridge: {err}", file=sys.stderr)
        return 1
    return run_program(lambda stop: app.run(settings, stop), service=settings.service)


if __name__ == "__main__":
    sys.exit(main())
