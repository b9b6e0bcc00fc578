"""`python -m services.von_neumann.worker`: do one piece of work under limits, and end.

One line of JSON comes in: {"job": NAME, "input": ..., "seconds": N, "megabytes": N}. Lines go out: {"progress": 0..1,
"message": TEXT} any number of times, then {"result": ...} or {"error": {"kind", "summary", "reason", "field", "fix"}}.
"""

import json
import resource
import sys
from typing import Any

from mesh import errors
from mesh.errors import MeshError, ResourceExhausted


def main() -> int:
    """Read, work, answer; the exit status is 0 when an answer was written."""
    request = json.loads(sys.stdin.readline())
    seconds, size = int(request["seconds"]), int(request["megabytes"]) << 20
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        _say({"result": _work(request["job"], request["input"])})
    except MeshError as err:
        _say({"error": _describe(err)})
    except (MemoryError, RecursionError) as err:
        summary = (
            "It needs more memory than it may have." if isinstance(err, MemoryError) else "It is nested too deeply."
        )
        error = ResourceExhausted(summary, reason="TOO_LARGE", fix="Make the task smaller.", retryable=False)
        _say({"error": _describe(error)})
    return 0


def _work(job: str, given: Any) -> Any:
    # Imported here, and only what the job needs: each costs some tenths of a second.
    from services.von_neumann import models

    match job:
        case "symbolic-math":
            from services.von_neumann.symbolic import solve_symbolic

            return solve_symbolic(models.SymbolicTask.model_validate(given)).model_dump()
        case "linear-program":
            from services.von_neumann.programs import solve_program

            return solve_program(models.LinearProgram.model_validate(given)).model_dump()
        case "matrix-game":
            from services.von_neumann.games import solve_game

            return solve_game(models.Game.model_validate(given)).model_dump()
        case "monte-carlo":
            from services.von_neumann.monte_carlo import simulate

            task = models.Simulation.model_validate(given)
            return simulate(task, lambda progress, text: _say({"progress": progress, "message": text})).model_dump()
        case _:
            raise errors.Internal(f"There is no job {job!r}.")


def _describe(err: MeshError) -> dict[str, str]:
    return {
        "kind": type(err).__name__,
        "summary": err.summary,
        "reason": err.reason,
        "field": err.field,
        "fix": err.fix,
    }


def _say(facts: dict[str, Any]) -> None:
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    sys.exit(main())
