"""A process that is killed while it changes the document leaves the old document or the new one."""

import asyncio
import sys
from pathlib import Path

from mesh.config.history import FileKeys, RevisionStore, operator_text

PROGRAM = Path(__file__).parent / "programs" / "append_for_ever.py"


async def test_a_kill_at_any_moment_leaves_a_whole_document(tmp_path):
    told = 0
    for attempt in range(8):
        writer = await asyncio.create_subprocess_exec(
            sys.executable, PROGRAM, tmp_path / "config", stdout=asyncio.subprocess.PIPE
        )
        try:
            for _ in range(3):
                told = int(await asyncio.wait_for(writer.stdout.readline(), 20))
            # Somewhere in the next change, each time somewhere else.
            await asyncio.sleep(attempt * 0.0007)
        finally:
            writer.kill()
            rest = await writer.stdout.read()
            await writer.wait()
        told = int(rest.split()[-1]) if rest.split() else told
        history = RevisionStore(FileKeys(tmp_path / "config"))
        head = await history.head()
        assert head.newest in (told, told + 1)
        await history.settle()
        revision = await history.get(head.active)
        assert revision.number == head.newest
        text = f"# {head.newest}\n" * 50
        assert operator_text(revision) == await history.read_operator_layer() == text
