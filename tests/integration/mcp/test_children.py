"""Servers over stdio are bounded, and nothing of them is left behind."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from mesh.runtime.orphans import adopt_orphans

CALLS = 10


def processes_with(mark: str) -> Iterator[str]:
    """Command lines of all processes that have a variable, zombies of them, too, as far as they are ours."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = (entry / "environ").read_bytes()
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if f"AM_TEST_MARK={mark}\0".encode() in environment:
            yield command.replace(b"\0", b" ").decode()


def own_children() -> set[int]:
    tasks = Path(f"/proc/{os.getpid()}/task")
    return {int(pid) for task in tasks.iterdir() for pid in (task / "children").read_text().split()}


@pytest.mark.parametrize(("era", "crashes"), [((), 100), (("--modern",), 20)], ids=["old", "modern"])
async def test_a_thousand_calls_and_a_hundred_crashes_leave_nothing_behind(
    open_bridge: Any, server_command: Any, monkeypatch: pytest.MonkeyPatch, era: tuple[str, ...], crashes: int
) -> None:
    mark = f"{os.getpid()}-{len(era)}"
    monkeypatch.setenv("AM_TEST_MARK", mark)
    before = own_children()
    async with adopt_orphans():
        async with open_bridge(server_command("raw_server", *era), max_sessions=2) as bridge:
            for number in range(crashes):
                pids = [await bridge.tool("pid", key="k") for _ in range(CALLS)]
                assert len(set(pids)) == 1
                if number % 20 == 0:
                    assert await bridge.tool("leave", key="k") == "left"
                with pytest.raises(grpc.aio.AioRpcError) as crash:
                    await bridge.tool("crash", key="k")
                assert crash.value.code() is grpc.StatusCode.UNAVAILABLE
                assert "the disk is full" in (crash.value.details() or "")
        async with asyncio.timeout(10):
            while list(processes_with(mark)):
                await asyncio.sleep(0.05)
    assert own_children() - before == set()


@pytest.mark.parametrize("era", [(), ("--modern",)], ids=["old", "modern"])
async def test_a_server_that_wants_too_much_memory_fails_by_itself(
    open_bridge: Any, server_command: Any, era: tuple[str, ...]
) -> None:
    limits = {"memory_bytes": 200 << 20}
    async with open_bridge(server_command("raw_server", *era), **limits) as bridge:
        assert await bridge.tool("eat", {"mb": 20}) == "full"
        with pytest.raises(grpc.aio.AioRpcError) as crash:
            await bridge.tool("eat", {"mb": 400})
        assert "MemoryError" in (crash.value.details() or "")
        assert await bridge.tool("ok", {"a": 1}) == {"a": 1}


async def test_a_server_that_takes_too_much_processor_time_is_killed(open_bridge: Any, server_command: Any) -> None:
    async with open_bridge(server_command("raw_server"), cpu_seconds=1) as bridge:
        with pytest.raises(grpc.aio.AioRpcError) as crash:
            await bridge.tool("spin", {"seconds": 8})
        assert "was killed by signal" in (crash.value.details() or "")
        assert await bridge.tool("ok", {"a": 1}) == {"a": 1}
