import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import InvalidInput, Unavailable
from mesh.runtime import Backoff, Child, ChildSpec, Stop, supervise

Python = Callable[..., ChildSpec]
Eventually = Callable[[Callable[[], object]], Awaitable[None]]
SLEEP = "import time; time.sleep(600)"


def quick() -> Backoff:
    return Backoff(0.001, 0.002)


async def test_child_that_exits_is_started_again(python: Python, logs: list[dict[str, Any]]) -> None:
    stop = Stop()
    pids: list[int] = []

    async def on_start(child: Child) -> None:
        pids.append(child.pid)
        if len(pids) == 3:
            stop.set()

    async with asyncio.timeout(30):
        await supervise(python("raise SystemExit(9)"), backoff=quick(), on_start=on_start, stop=stop)
    assert len(set(pids)) == 3
    assert [entry["code"] for entry in logs if entry["event"] == "child_exited"] == [9, 9]


async def test_stop_ends_the_child(python: Python, eventually: Eventually) -> None:
    stop = Stop()
    children: list[Child] = []

    async def on_start(child: Child) -> None:
        children.append(child)

    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        tasks.create_task(supervise(python(SLEEP), backoff=quick(), on_start=on_start, stop=stop))
        await eventually(lambda: children)
        stop.set()
    assert children[0].returncode == -signal.SIGTERM


async def test_stop_during_the_backoff_ends_it(
    python: Python, logs: list[dict[str, Any]], eventually: Eventually
) -> None:
    stop = Stop()
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        slow = Backoff(3600, 3600, random=lambda: 1.0)
        tasks.create_task(supervise(python("pass"), backoff=slow, on_start=None, stop=stop))
        await eventually(lambda: any(entry["event"] == "child_exited" for entry in logs))
        stop.set()


async def test_stop_that_is_set_already_starts_nothing(tmp_path: Path, python: Python) -> None:
    stop = Stop()
    stop.set()
    mark = tmp_path / "started"
    async with asyncio.timeout(30):
        await supervise(python(f"open({str(mark)!r}, 'w')", grace=30.0), backoff=quick(), on_start=None, stop=stop)
    assert not mark.exists()


async def test_on_start_is_cancelled_when_the_child_exits_first(python: Python) -> None:
    stop = Stop()
    ended: list[str] = []

    async def on_start(child: Child) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")
            stop.set()

    async with asyncio.timeout(30):
        await supervise(python("pass"), backoff=quick(), on_start=on_start, stop=stop)
    assert ended == ["cancelled"]


async def test_error_of_on_start_ends_the_supervision_and_the_child(python: Python) -> None:
    children: list[Child] = []

    async def on_start(child: Child) -> None:
        children.append(child)
        raise Unavailable("It does not answer.")

    with pytest.raises(Unavailable):
        await supervise(python(SLEEP), backoff=quick(), on_start=on_start, stop=Stop())
    assert children[0].returncode is not None


async def test_command_that_does_not_exist_is_not_tried_again() -> None:
    with pytest.raises(InvalidInput):
        await supervise(ChildSpec(name="x", command=("no-such-command",)), backoff=quick(), on_start=None, stop=Stop())
