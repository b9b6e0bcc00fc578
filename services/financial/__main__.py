"""`python -m services.financial [--data-dir DIR]`: serve financial tools over stdio until stdin closes."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# Two optional imports of the SDK and its dependencies that a server behind a pipe never uses: rich for coloured logs,
# 5 MB, and uvicorn for HTTP, 3 MB.
for unused in ("rich", "uvicorn"):
    sys.modules.setdefault(unused, None)  # type: ignore[arg-type]

from services.financial.prices import SAMPLE_DIRECTORY, PriceFolder  # noqa: E402
from services.financial.server import FinancialServer  # noqa: E402
from services.tool_server import InvalidArgument, read_version, run_over_stdio  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve; the exit status is 0 when the host has gone and 2 for arguments that make no sense."""
    parser = argparse.ArgumentParser(
        prog="python -m services.financial", description="Financial tools over MCP on stdin and stdout."
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=SAMPLE_DIRECTORY,
        metavar="DIR",
        help="folder of price histories, SYMBOL.csv with columns date and close (default: synthetic samples)",
    )
    options = parser.parse_args(arguments)
    try:
        folder = PriceFolder(options.data_dir)
    except InvalidArgument as err:
        parser.error(f"--data-dir: {err.cause} {err.fix}")
    return run_over_stdio(FinancialServer(folder, version=read_version()))


if __name__ == "__main__":
    sys.exit(main())
