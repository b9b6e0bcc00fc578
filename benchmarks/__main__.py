"""`python -m benchmarks [NAME]`: measure, print a table, write results/latest.json."""

import asyncio
import sys
from collections.abc import Callable, Coroutine

from benchmarks import change, edge, fanout, growth, hop, mcp_doors, mcp_peers, memory, ready, registration
from benchmarks.report import Figure, print_figures, save_figures
from mesh.telemetry import configure_logs

BENCHMARKS: dict[str, Callable[[], Coroutine[None, None, list[Figure]]]] = {
    "ready": ready.measure,
    "hop": hop.measure,
    "registration": registration.measure,
    "memory": memory.measure,
    "fanout": fanout.measure,
    "growth": growth.measure,
    "change": change.measure,
    "edge": edge.measure,
    "mcp": mcp_doors.measure,
    "mcp-peers": mcp_peers.measure,
}


def main(arguments: list[str]) -> int:
    """Run one benchmark or all of them; the exit status is 1 when one could not run. A missed goal is no failure."""
    unknown = [name for name in arguments if name not in BENCHMARKS]
    if unknown:
        print(f"There is no benchmark {unknown[0]!r}; there are: {', '.join(BENCHMARKS)}.", file=sys.stderr)
        return 2
    configure_logs("benchmarks", level="warning")
    figures: list[Figure] = []
    failed = False
    for name in arguments or BENCHMARKS:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        try:
            figures += asyncio.run(BENCHMARKS[name]())
        except Exception as err:  # noqa: BLE001 - the others are to be measured all the same
            print(f"{name} could not be measured: {type(err).__name__}: {err}", file=sys.stderr)
            failed = True
    save_figures(figures, is_whole=not arguments)
    print_figures(figures)
    return int(failed)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
