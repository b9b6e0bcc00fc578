"""`python -m services.financial [--data-dir DIR]`: serve financial tools over stdio until stdin closes."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

# The SDK logs through rich when it is installed: 5 MB for colours that nobody sees behind a pipe.
sys.modules.setdefault("rich", None)  # type: ignore[arg-type]

from services.financial.limits import InvalidArgument  # noqa: E402
from services.financial.prices import SAMPLE_DIRECTORY, PriceFolder  # noqa: E402
from services.financial.server import FinancialServer  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve; the exit status is 0 when stdin has closed and 2 for arguments that make no sense."""
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
    FinancialServer(folder).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
