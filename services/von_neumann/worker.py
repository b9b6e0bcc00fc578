"""`python -m services.von_neumann.worker MEGABYTES`: do pieces of work under limits, one after the other.

A line of JSON comes in: {"job": NAME, "input": ..., "seconds": N}. Lines go out: {"progress": 0..1, "message": TEXT}
any number of times, then {"result": ...} or {"error": {"kind", "summary", "reason", "field", "fix", "retryable"}}.
The worker ends when its input does, and when a job takes more processor time than its seconds (SIGXCPU).
"""

import json
import resource
import sys
import traceback
from typing import Any

from mesh import errors
from mesh.errors import MeshError, ResourceExhausted

_RESERVE = 32 << 20
"""Bytes of memory with which a worker that has used all of its own can still say so."""


def main() -> int:
    """Work until the input ends; the exit status is 0."""
    size = int(sys.argv[1]) << 20
    resource.setrlimit(resource.RLIMIT_AS, (size, size + _RESERVE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        _serve(json.loads(line))
    return 0


def _serve(request: dict[str, Any]) -> None:
    _limit_processor(int(request["seconds"]))
    try:
        # Written whole and only now: a result that cannot be written leaves no half of itself.
        answer = json.dumps({"result": _work(request["job"], request["input"])})
    except MeshError as err:
        answer = _describe(err)
    except MemoryError:
        _open_reserve()
        answer = _describe(_too_large("It needs more memory than it may have."))
    except RecursionError:
        answer = _describe(_too_large("It is nested too deeply."))
    except Exception as err:  # noqa: BLE001 - the last resort of this process: the agent must get an answer
        # Where it was, but not with what: the frames hold the caller's numbers.
        traceback.print_tb(err.__traceback__, limit=-5)
        answer = _describe(
            errors.Internal(
                f"The computation failed in a way that is not foreseen ({type(err).__name__}).",
                fix="Write the task in another way.",
            )
        )
    print(answer, flush=True)


def _limit_processor(seconds: int) -> None:
    """What this job may use more than what has been used. The hard limit stays: it could not be raised again."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + seconds + 1, hard))


def _open_reserve() -> None:
    """What has failed is still held by its error; the pool ends a worker that has answered so."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


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

            return simulate(models.Simulation.model_validate(given), _report).model_dump()
        case _:
            raise errors.Internal(f"There is no job {job!r}.")


def _report(progress: float, message: str) -> None:
    print(json.dumps({"progress": progress, "message": message}), flush=True)


def _too_large(summary: str) -> ResourceExhausted:
    return ResourceExhausted(summary, fix="Make the task smaller.", retryable=False)


def _describe(err: MeshError) -> str:
    facts = {name: getattr(err, name) for name in ("summary", "reason", "field", "fix", "retryable")}
    return json.dumps({"error": {"kind": type(err).__name__, **facts}})


if __name__ == "__main__":
    sys.exit(main())
