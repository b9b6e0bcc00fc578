"""A child that is kept running, and is of use only once it says so."""

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from mesh.errors import FailedPrecondition
from mesh.runtime.background import open_background
from mesh.runtime.backoff import Backoff
from mesh.runtime.child import Child, ChildSpec
from mesh.runtime.stop import Stop
from mesh.runtime.supervise import supervise

_POLL = 0.05
_ENVOY_ERROR = re.compile(r"\[(critical|error)\]")


class Supervised:
    """A child process that is started again whenever it dies. Made by `open_supervised`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._child: Child | None = None
        self._first: Child | None = None

    @property
    def pid(self) -> int | None:
        """The process id of the newest start; None before the first."""
        return self._child.pid if self._child is not None else None

    @property
    def is_running(self) -> bool:
        """Whether the newest start still runs."""
        return self._child is not None and self._child.returncode is None

    async def wait_ready(self, is_ready: Callable[[], Awaitable[bool]], *, timeout: float, fix: str = "") -> None:
        """Ask `is_ready` until it says so, for up to `timeout` seconds.

        Raises FailedPrecondition with the child's last words when its first start ends before, or it is not in time.
        """
        try:
            async with asyncio.timeout(timeout) as limit:
                while not await is_ready():
                    if self._first is not None and self._first.returncode is not None:
                        raise await self._ended(self._first, fix)
                    await asyncio.sleep(_POLL)
        except TimeoutError as err:
            if not limit.expired():
                raise
            said = self._first.last_output if self._first is not None else ()
            raise FailedPrecondition(
                f"{self._name} is not ready after {timeout:g} s. {_last_words(said)}",
                reason="PROCESS_NOT_READY",
                fix=fix,
            ) from err

    async def _ended(self, child: Child, fix: str) -> FailedPrecondition:
        # What it said last may still be in the pipe.
        code = await child.wait()
        return FailedPrecondition(
            f"{self._name} ended at once, {_explain_code(code)}. {_last_words(child.last_output)}",
            reason="PROCESS_ENDED",
            fix=fix,
        )

    async def _note(self, child: Child) -> None:
        self._first = self._first or child
        self._child = child


@asynccontextmanager
async def open_supervised(
    spec: ChildSpec, *, before_start: Callable[[], None] | None = None
) -> AsyncIterator[Supervised]:
    """Run a child, restarted with backoff whenever it dies, until the block ends.

    `before_start` clears the way before each start. Raises InvalidInput when the command does not exist, which cancels
    the block.
    """
    supervised = Supervised(spec.name)
    keeping = supervise(
        spec, backoff=Backoff(0.1, 5.0), on_start=supervised._note, before_start=before_start, stop=Stop()
    )
    async with open_background(keeping):
        yield supervised


def _explain_code(code: int) -> str:
    if code >= 0:
        return f"with exit status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def _last_words(lines: tuple[str, ...]) -> str:
    """The error in what a child said last, in our JSON logs or in Envoy's; the last line when there is none."""
    return f"It said last: {_last_error(lines)}" if lines else "It said nothing."


def _last_error(lines: tuple[str, ...]) -> str:
    for line in reversed(lines):
        if _ENVOY_ERROR.match(line):
            return line
        try:
            facts = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(facts, dict) and facts.get("error"):
            return str(facts["error"])
    return lines[-1]
