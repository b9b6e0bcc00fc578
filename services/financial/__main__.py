"""`python -m services.financial [--data-dir DIR]`: serve financial tools over stdio until stdin closes."""

import argparse
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# Two optional imports of the SDK and its dependencies that a server behind a pipe never uses: rich for coloured logs,
# 5 MB, and uvicorn for HTTP, 3 MB.
for unused in ("rich", "uvicorn"):
    sys.modules.setdefault(unused, None)  # type: ignore[arg-type]

from services.financial.limits import InvalidArgument  # noqa: E402
from services.financial.prices import SAMPLE_DIRECTORY, PriceFolder  # noqa: E402
from services.financial.server import FinancialServer  # noqa: E402


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
    # The SDK reads stdin in a thread that cannot be interrupted: Python's own handler would wait for the next line.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        FinancialServer(folder, version=_read_version()).run()
    except* BrokenPipeError:
        print("financial: the host no longer reads what is answered.", file=sys.stderr)
    return 0


def _read_version() -> str:
    try:
        return version("agentmesh")
    except PackageNotFoundError:  # run from a checkout
        return ""


if __name__ == "__main__":
    sys.exit(main())
