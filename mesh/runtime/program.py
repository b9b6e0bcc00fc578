"""The outermost frame of every program of the mesh."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

from mesh.errors import MeshError
from mesh.runtime.orphans import adopt_orphans
from mesh.runtime.signals import undo_inherited_signals
from mesh.runtime.stop import Stop
from mesh.telemetry import configure_logs, get_logger, open_telemetry

_log = get_logger(__name__)


def run_program(main: Callable[[Stop], Awaitable[None]], *, service: str) -> int:
    """Run `main` to its end and return the exit status: 0, or 1 after an error, which has been logged.

    Logs go to stderr from level MESH_LOG_LEVEL up. SIGTERM and SIGINT set the Stop that `main` gets; `main` then ends
    by itself, in its own time. Processes that lose their parent below this one are adopted, see `adopt_orphans`.
    """
    try:
        configure_logs(service, level=os.environ.get("MESH_LOG_LEVEL") or "info")
    except MeshError as err:
        configure_logs(service)
        _log.error("program_failed", reason=err.reason, error=str(err))
        return 1
    with open_telemetry(service):
        try:
            asyncio.run(_run(main))
        except (MeshError, BaseExceptionGroup) as err:
            error = _only_mesh_error(err)
            if error is None:
                _log.exception("program_crashed", error=type(err).__name__)
            else:
                _log.error("program_failed", reason=error.reason, error=str(error))
            return 1
        except Exception as err:  # noqa: BLE001 - the last resort: what comes here must be logged in our form
            _log.exception("program_crashed", error=type(err).__name__)
            return 1
    return 0


async def _run(main: Callable[[Stop], Awaitable[None]]) -> None:
    stop = Stop()
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        if not stop.is_set:
            _log.info("program_stopping", signal=number.name)
            stop.set()

    undo_inherited_signals()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    async with adopt_orphans():
        await main(stop)


def _only_mesh_error(error: BaseException) -> MeshError | None:
    """The MeshError that is behind `error`, if all that went wrong is one MeshError."""
    while isinstance(error, BaseExceptionGroup):
        if len(error.exceptions) != 1:
            return None
        error = error.exceptions[0]
    return error if isinstance(error, MeshError) else None
