"""`python -m services.utilities`: serve everyday tools over stdio until stdin closes."""

import sys

# Optional imports that this server never uses: rich for coloured logs, 5 MB, uvicorn for HTTP, 3 MB, and numpy, which
# pint takes for arrays, 13 MB.
for unused in ("numpy", "rich", "uvicorn"):
    sys.modules.setdefault(unused, None)  # type: ignore[arg-type]

from services.tool_server import read_version, run_over_stdio  # noqa: E402
from services.utilities.server import build_server  # noqa: E402


def main() -> int:
    """Serve; the exit status is 0 when the host has gone and 2 for arguments, of which there are none."""
    if sys.argv[1:]:
        print("usage: python -m services.utilities", file=sys.stderr)
        return 2
    return run_over_stdio(build_server(version=read_version()))


if __name__ == "__main__":
    sys.exit(main())
