import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from mesh.runtime import ChildSpec, adopt_orphans, open_child
from mesh.runtime.orphans import MARK, orphanage
from mesh.runtime.spawn import is_subreaper, set_subreaper

Python = Callable[..., ChildSpec]
Eventually = Callable[[Callable[[], object]], Awaitable[None]]
IsAlive = Callable[[int], bool]

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
SHORT = "import sys; sys.stdin.read()"


def daemon(code: str, then: str = "") -> str:
    """A child that starts a process in a session of its own, tells its pid, and goes on to `then`."""
    return f"""
import subprocess, sys, time
p = subprocess.Popen([sys.executable, '-c', {code!r}], start_new_session=True, stdout=subprocess.DEVNULL,
                     stderr=subprocess.DEVNULL)
print(p.pid, flush=True)
{then}
"""


async def test_what_escaped_from_the_group_is_ended_with_its_child(python: Python, is_alive: IsAlive) -> None:
    async with adopt_orphans():
        async with open_child(python(daemon(STUBBORN), grace=0.2)) as child:
            assert await child.wait() == 0
            escaped = int(child.last_output[0])
            assert is_alive(escaped)
        assert not is_alive(escaped)


async def test_what_comes_up_when_an_orphan_ends_is_ended_too(python: Python, eventually: Eventually) -> None:
    nested = daemon(STUBBORN, "open(sys.argv[-1], 'w').write(str(p.pid)) if False else None; time.sleep(600)")
    async with adopt_orphans():
        async with open_child(python(daemon(nested), grace=0.2)) as child:
            await child.wait()
            middle = int(child.last_output[0])
            await eventually(lambda: _children(middle))
            inner = _children(middle)[0]
        for pid in (middle, inner):
            assert not Path(f"/proc/{pid}").exists()


async def test_daemon_of_a_living_child_lives(python: Python, is_alive: IsAlive, eventually: Eventually) -> None:
    # The child starts a starter, which starts a daemon and exits: a double fork.
    starter = daemon("import time; time.sleep(600)")
    code = f"""
import subprocess, sys, time
out = subprocess.run([sys.executable, '-c', {starter!r}], capture_output=True, text=True).stdout
print(out.strip(), flush=True)
time.sleep(600)
"""
    async with adopt_orphans(), open_child(python(code)) as living:
        await eventually(lambda: living.last_output)
        pid = int(living.last_output[0])
        async with open_child(python("pass")) as other:
            await other.wait()
        orphanage.sweep()
        assert is_alive(pid)
    assert not is_alive(pid)


async def test_dead_orphan_is_reaped_while_its_child_lives(python: Python, eventually: Eventually) -> None:
    code = """
import subprocess, time
print(subprocess.run(['sh', '-c', 'sleep 600 >/dev/null 2>&1 & echo $!'], capture_output=True, text=True).stdout,
      flush=True)
time.sleep(600)
"""
    async with adopt_orphans(), open_child(python(code)) as child:
        await eventually(lambda: child.last_output)
        pid = int(child.last_output[0])
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: not Path(f"/proc/{pid}").exists())


async def test_children_of_other_code_are_neither_ended_nor_reaped(python: Python) -> None:
    async with adopt_orphans():
        own_session = subprocess.Popen([sys.executable, "-c", "raise SystemExit(4)"], start_new_session=True)
        of_asyncio = await asyncio.create_subprocess_exec(sys.executable, "-c", SHORT, stdin=subprocess.PIPE)
        async with open_child(python("pass", grace=0.1)) as child:
            await child.wait()
        orphanage.sweep()
        assert of_asyncio.returncode is None
        of_asyncio.stdin.close()  # type: ignore[union-attr]
        assert await of_asyncio.wait() == 0
        assert own_session.wait(10) == 4


async def test_mark_is_a_chain_so_that_every_ancestor_knows_its_own(python: Python) -> None:
    async with open_child(python(f"import os; print(os.environ[{MARK!r}])", env={})) as child:
        await child.wait()
        chain = child.last_output[0].split("/")
    assert orphanage.new_token().split(".")[0] == chain[-1].split(".")[0]


async def test_nested_adoption_changes_nothing() -> None:
    async with adopt_orphans():
        async with adopt_orphans():
            assert orphanage.is_open
        assert orphanage.is_open
    assert not orphanage.is_open


async def test_after_the_block_orphans_go_where_they_went_before() -> None:
    was_subreaper = is_subreaper()
    async with adopt_orphans():
        assert is_subreaper()
    assert is_subreaper() == was_subreaper


async def test_process_1_reaps_what_died_in_a_group_of_its_own_children(python: Python) -> None:
    """Orphans come to process 1, asked for or not; a subreaper that has adopted nothing is as good as it."""
    was_subreaper = is_subreaper()
    set_subreaper(True)
    try:
        async with open_child(python("import subprocess; print(subprocess.Popen(['sleep', '600']).pid)")) as child:
            await child.wait()
            pid = int(child.last_output[0])
            assert pid in _children(os.getpid())
        assert not Path(f"/proc/{pid}").exists()
    finally:
        set_subreaper(was_subreaper)


def _children(parent: int) -> list[int]:
    from mesh.runtime.processes import list_processes

    return [process.pid for process in list_processes() if process.parent == parent]
