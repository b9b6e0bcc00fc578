import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import InvalidInput
from mesh.runtime import ChildSpec, open_child

Python = Callable[..., ChildSpec]
Eventually = Callable[[Callable[[], object]], Awaitable[None]]
IsAlive = Callable[[int], bool]

# Longer than any test; none of these outlives a broken one for ever.
SLEEP = "import time; time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)
PARENT_OF_STUBBORN = f"""
import subprocess, sys, time
print(subprocess.Popen([sys.executable, '-c', {STUBBORN!r}], stdout=subprocess.DEVNULL).pid, flush=True)
"""


@pytest.fixture(autouse=True)
def nothing_is_left(has_zombies: Callable[[], bool]) -> Any:
    yield
    assert not has_zombies()


async def test_output_is_logged_and_exit_status_told(python: Python, logs: list[dict[str, Any]]) -> None:
    code = "import sys; print('to stdout'); print('to stderr', file=sys.stderr); sys.exit(3)"
    async with open_child(python(code)) as child:
        assert await child.wait() == 3
        assert child.returncode == 3
        assert set(child.last_output) == {"to stdout", "to stderr"}
    told = {(entry["stream"], entry["line"]) for entry in logs if entry["event"] == "child_output"}
    assert told == {("stdout", "to stdout"), ("stderr", "to stderr")}


async def test_child_that_dies_of_a_signal_has_its_negative_number(python: Python) -> None:
    async with open_child(python(SLEEP)) as child:
        assert child.returncode is None
        os.kill(child.pid, signal.SIGKILL)
        assert await child.wait() == -signal.SIGKILL


async def test_piped_child_answers_on_its_streams(python: Python, logs: list[dict[str, Any]]) -> None:
    code = "import sys; print('noise', file=sys.stderr); [print(line.strip()[::-1], flush=True) for line in sys.stdin]"
    async with open_child(python(code, pipe_stdio=True)) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"abc\n")
        await child.stdin.drain()
        assert await child.stdout.readline() == b"cba\n"
        child.stdin.close()
        assert await child.wait() == 0
        assert child.last_output == ("noise",)


async def test_piped_child_that_prints_without_end_is_held_back_by_its_pipe(python: Python) -> None:
    async with open_child(python("while True: print('x' * 65536, end='')", pipe_stdio=True)) as child:
        assert child.stdout is not None
        for _ in range(50):
            await child.stdout.read(1024)
        assert len(child.stdout._buffer) <= 4 * 64 * 1024  # type: ignore[attr-defined]


async def test_child_has_its_environment_and_directory(python: Python, tmp_path: Path) -> None:
    code = "import os; print(os.environ['GREETING'], os.environ['PATH'] != '', os.getcwd())"
    async with open_child(python(code, env={"GREETING": "hello"}, cwd=str(tmp_path))) as child:
        await child.wait()
        assert child.last_output == (f"hello True {tmp_path}",)


async def test_child_leads_a_session_of_its_own(python: Python) -> None:
    async with open_child(python(SLEEP)) as child:
        assert os.getsid(child.pid) == os.getpgid(child.pid) == child.pid


@pytest.mark.parametrize(
    ("command", "cwd", "field", "words"),
    [
        (("no-such-command-here",), None, "command", "no-such-command-here"),
        ((), None, "command", "no command"),
        (("/tmp",), None, "command", "Permission denied"),
        (("/etc/passwd",), None, "command", "Permission denied"),
        ((sys.executable, "a\0b"), None, "command", "null byte"),
        ((sys.executable,), "/no/such/directory", "cwd", "/no/such/directory"),
    ],
)
async def test_command_that_cannot_be_started_names_what_is_wrong(
    command: tuple[str, ...], cwd: str | None, field: str, words: str
) -> None:
    with pytest.raises(InvalidInput, match=words) as failed:
        async with open_child(ChildSpec(name="probe", command=command, env={}, cwd=cwd)):
            pytest.fail("started")
    assert failed.value.field == field
    assert failed.value.fix


async def test_group_is_ended_when_the_body_raises(python: Python, is_alive: IsAlive) -> None:
    with pytest.raises(LookupError):
        async with open_child(python(SLEEP)) as child:
            raise LookupError
    assert child.returncode == -signal.SIGTERM
    assert not is_alive(child.pid)


async def test_group_is_ended_when_the_body_is_cancelled(
    python: Python, is_alive: IsAlive, eventually: Eventually
) -> None:
    pids: list[int] = []

    async def body() -> None:
        async with open_child(python(SLEEP)) as child:
            pids.append(child.pid)
            await child.wait()

    task = asyncio.create_task(body())
    await eventually(lambda: pids)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not is_alive(pids[0])


async def test_stubborn_child_is_killed_after_its_grace(python: Python, eventually: Eventually) -> None:
    async with open_child(python(STUBBORN, grace=0.1)) as child:
        await eventually(lambda: child.last_output)
    assert child.returncode == -signal.SIGKILL


async def test_second_cancellation_kills_at_once(python: Python, eventually: Eventually, is_alive: IsAlive) -> None:
    pids: list[int] = []

    async def body() -> None:
        async with open_child(python(STUBBORN, grace=3600.0)) as child:
            await eventually(lambda: child.last_output)
            pids.append(child.pid)
            await child.wait()

    task = asyncio.create_task(body())
    await eventually(lambda: pids)
    task.cancel()
    for _ in range(20):
        await asyncio.sleep(0)
    assert is_alive(pids[0])
    task.cancel()
    async with asyncio.timeout(10):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not is_alive(pids[0])


async def test_what_an_exited_child_left_in_its_group_is_ended(python: Python, is_alive: IsAlive) -> None:
    async with open_child(python(PARENT_OF_STUBBORN, grace=0.1)) as child:
        assert await child.wait() == 0
        left_behind = int(child.last_output[0])
        assert is_alive(left_behind)
    assert not is_alive(left_behind)


async def test_wait_does_not_wait_for_pipes_that_others_hold_open(python: Python) -> None:
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEP!r}])"
    async with open_child(python(code)) as child, asyncio.timeout(10):
        assert await child.wait() == 0


async def test_flood_on_stderr_is_counted_and_the_last_lines_kept(python: Python, logs: list[dict[str, Any]]) -> None:
    code = "import sys; [print('line', n, file=sys.stderr) for n in range(20000)]"
    async with open_child(python(code)) as child:
        await child.wait()
        assert child.last_output[-1] == "line 19999"
        assert len(child.last_output) == 20
    logged = sum(entry["event"] == "child_output" for entry in logs)
    dropped = sum(entry["lines"] for entry in logs if entry["event"] == "child_output_dropped")
    assert logged < 2000
    assert logged + dropped == 20000


async def test_exit_is_seen_where_there_is_no_pidfd(python: Python, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "pidfd_open", refuse)
    async with open_child(python("raise SystemExit(7)")) as child, asyncio.timeout(10):
        assert await child.wait() == 7


async def test_other_peoples_children_are_not_disturbed(python: Python) -> None:
    other = await asyncio.create_subprocess_exec(sys.executable, "-c", "raise SystemExit(5)")
    async with open_child(python("raise SystemExit(6)")) as child:
        assert await child.wait() == 6
        assert await other.wait() == 5


def test_child_dies_when_its_parent_is_killed(eventually: Eventually, is_alive: IsAlive) -> None:
    code = f"""
import asyncio, sys
from mesh.runtime import ChildSpec, open_child
async def main():
    async with open_child(ChildSpec(name='probe', command=(sys.executable, '-c', {SLEEP!r}))) as child:
        print(child.pid, flush=True)
        await child.wait()
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        try:
            pid = int(parent.stdout.readline())
            assert is_alive(pid)
        finally:
            parent.kill()
    asyncio.run(_gone(eventually, is_alive, pid))
    # Its parent has gone: where this process is process 1 of a container, the dead child is now its own.
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


async def _gone(eventually: Eventually, is_alive: IsAlive, pid: int) -> None:
    await eventually(lambda: not is_alive(pid))


@pytest.mark.parametrize("inherited", ["blocked", "ignored"])
def test_signals_that_a_launcher_blocks_or_ignores_are_heard_all_the_same(inherited: str) -> None:
    """Blocked and ignored signals outlive exec: SIGCHLD then tells of no exit, and SIGTERM stops nothing."""
    program = """
import os, signal, sys
from mesh.runtime import ChildSpec, open_child, run_program
async def main(stop):
    async with open_child(ChildSpec(name='probe', command=(sys.executable, '-c', 'raise SystemExit(7)'))) as child:
        assert await child.wait() == 7
    orphan = "import subprocess; print(subprocess.Popen(['sleep', '600'], stdout=subprocess.DEVNULL).pid, flush=True)"
    code = f'import subprocess, sys, time; subprocess.run([sys.executable, "-c", {orphan!r}]); time.sleep(600)'
    async with open_child(ChildSpec(name='probe', command=(sys.executable, '-c', code), pipe_stdio=True)) as child:
        pid = int(await child.stdout.readline())
        print(pid, flush=True)
        await stop.wait()
        print(os.path.exists(f'/proc/{pid}'), flush=True)
sys.exit(run_program(main, service='probe'))
"""
    launcher = f"""
import os, signal, sys
if {inherited!r} == 'blocked':
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD, signal.SIGTERM, signal.SIGINT])
else:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
os.execv(sys.executable, [sys.executable, '-c', {program!r}])
"""
    with subprocess.Popen([sys.executable, "-c", launcher], stdout=subprocess.PIPE, text=True) as it:
        assert it.stdout is not None
        try:
            orphan = int(it.stdout.readline())
            os.kill(orphan, signal.SIGKILL)
            deadline = time.monotonic() + 10
            while Path(f"/proc/{orphan}").exists() and time.monotonic() < deadline:
                time.sleep(0.01)  # somebody else reaps it
            it.terminate()
            assert it.stdout.readline() == "False\n"
            assert it.wait(10) == 0
        finally:
            it.kill()


async def test_children_start_beside_busy_grpc_threads(python: Python) -> None:
    """The work between fork and exec takes no lock that another thread could hold."""
    import grpc

    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            with grpc.insecure_channel("unix:/nonexistent") as channel:
                channel.unary_unary("/x/Y")

    threads = [threading.Thread(target=spin) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        async with asyncio.timeout(60):
            for _ in range(5):
                async with open_child(ChildSpec(name="probe", command=("true",))) as child:
                    assert await child.wait() == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()
