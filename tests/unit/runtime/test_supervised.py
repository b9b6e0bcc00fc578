import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mesh.errors import FailedPrecondition, InvalidInput
from mesh.runtime import ChildSpec, open_supervised

Python = Callable[..., ChildSpec]
Eventually = Callable[[Callable[[], object]], Awaitable[None]]

SLEEP = "import time; time.sleep(600)"


async def never() -> bool:
    return False


async def reason_of(spec: ChildSpec, *, timeout: float = 20.0) -> FailedPrecondition:
    """Why a child that never says that it is ready is not."""
    with pytest.raises(FailedPrecondition) as caught:
        async with open_supervised(spec) as child:
            await child.wait_ready(never, timeout=timeout, fix="Look at it.")
    assert caught.value.fix == "Look at it."
    return caught.value


async def test_a_child_is_ready_when_it_says_so(python: Python, tmp_path: Path) -> None:
    mark = tmp_path / "ready"

    async def is_ready() -> bool:
        return mark.exists()

    async with open_supervised(python(f"open({str(mark)!r}, 'w').close(); {SLEEP}")) as child:
        await child.wait_ready(is_ready, timeout=20.0)
        assert child.is_running
        pid = child.pid
    assert pid is not None
    assert not child.is_running
    assert not Path(f"/proc/{pid}").exists()


async def test_a_child_that_dies_is_started_again(
    python: Python, eventually: Eventually, is_alive: Callable[[int], bool]
) -> None:
    async with open_supervised(python(SLEEP)) as child:
        await eventually(lambda: child.pid)
        first = child.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: child.pid != first and child.is_running)
        second = child.pid
    assert not is_alive(first)
    assert second is not None
    assert not is_alive(second)


async def test_the_way_is_cleared_before_each_start(python: Python, eventually: Eventually, tmp_path: Path) -> None:
    mark = tmp_path / "in the way"
    code = f"import os, time; os.path.exists({str(mark)!r}) or (open({str(mark)!r}, 'x'), time.sleep(600))"
    starts: list[int] = []

    def clear() -> None:
        starts.append(1)
        mark.unlink(missing_ok=True)

    async with open_supervised(python(code), before_start=clear) as child:
        for count in (1, 2):
            await eventually(lambda count=count: len(starts) == count and mark.exists() and child.is_running)
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)
        await eventually(lambda: len(starts) == 3)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise SystemExit(3)", "probe ended at once, with exit status 3. It said nothing."),
        ("raise ValueError('no such setting')", "exit status 1. It said last: ValueError: no such setting"),
        ("import os; os.kill(os.getpid(), 9)", "probe ended at once, killed by SIGKILL. It said nothing."),
        ("pass", "probe ended at once, with exit status 0."),
    ],
)
async def test_a_child_that_ends_at_once_is_said_to_have(python: Python, code: str, words: str) -> None:
    error = await reason_of(python(code))
    assert words in error.summary
    assert error.reason == "PROCESS_ENDED"


async def test_a_child_that_is_late_is_quoted() -> None:
    command = ("sh", "-c", "echo still loading; exec sleep 600")
    error = await reason_of(ChildSpec(name="probe", command=command), timeout=0.5)
    assert error.summary == "probe is not ready after 0.5 s. It said last: still loading"
    assert error.reason == "PROCESS_NOT_READY"


@pytest.mark.parametrize(
    ("said", "quoted"),
    [
        (["[critical][main] bad bootstrap", "[info][main] exiting"], "[critical][main] bad bootstrap"),
        (["[error][config] no such file", "Traceback"], "[error][config] no such file"),
        (['{"event": "program_failed", "error": "The port is taken."}', '{"event": "bye"}'], "The port is taken."),
        (["first", "last"], "last"),
        (["[[[[", "{", "7", '"text"'], '"text"'),
    ],
)
async def test_the_error_is_picked_out_of_what_was_said(python: Python, said: list[str], quoted: str) -> None:
    error = await reason_of(python(f"print({chr(10).join(said)!r}); raise SystemExit(1)"))
    assert error.summary.endswith(f"It said last: {quoted}")


async def test_an_error_of_the_question_itself_passes_through(python: Python) -> None:
    async def broken() -> bool:
        raise TimeoutError("of its own")

    async with open_supervised(python(SLEEP)) as child:
        with pytest.raises(TimeoutError, match="of its own"):
            await child.wait_ready(broken, timeout=20.0)


async def test_a_command_that_does_not_exist_ends_the_block() -> None:
    with pytest.raises(InvalidInput) as caught:
        async with asyncio.timeout(20), open_supervised(ChildSpec(name="x", command=("no-such-command",))) as child:
            await child.wait_ready(never, timeout=20.0)
    assert caught.value.reason == "COMMAND_NOT_FOUND"
