"""The launcher itself may be killed: it takes everything with it, and the next one starts where it stood."""

import asyncio
import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

LAUNCHER = Path(__file__).parent / "servers" / "launcher.py"


async def test_a_killed_launcher_leaves_no_process_and_its_successor_starts_without_a_token(
    control_plane: Any, echo_command: tuple[str, ...], processes_of: Any, eventually: Any
) -> None:
    token, _ = control_plane.tokens.create(
        "echo", timedelta(minutes=1), fingerprint=control_plane.authority.fingerprint
    )
    given = {
        "instance": "echo-1",
        "state_dir": str(control_plane.state_dir),
        "control": str(control_plane.control),
        "enrolment": str(control_plane.enrolment),
        "trust_domain": "test.local",
        "command": echo_command,
        "token": token,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        LAUNCHER,
        json.dumps(given),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    async with asyncio.timeout(30):
        assert await process.stdout.readline() == b"ready\n"
    run = control_plane.state_dir / "run" / "echo-1"
    assert len(processes_of(run)) >= 2, "its Envoy and its application"
    assert (run / "out.sock").exists()

    process.kill()
    await process.wait()
    await eventually(lambda: processes_of(control_plane.state_dir) == [])
    signed = len(control_plane.authority.issued())
    async with control_plane.open("echo", instance="echo-1", deregister_wait=0.0):
        await control_plane.wait_healthy("echo")
    assert len(control_plane.authority.issued()) == signed
