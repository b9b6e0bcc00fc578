import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

WAIT = """
import sys
from mesh.runtime import run_program
async def main(stop):
    print('up', flush=True)
    await stop.wait()
    print('stopped', flush=True)
sys.exit(run_program(main, service='probe'))
"""


def run(body: str, **environment: str) -> tuple[int, list[dict[str, Any]]]:
    code = f"""
import asyncio, sys
from mesh.errors import FailedPrecondition
from mesh.runtime import run_program
async def main(stop):
{body}
sys.exit(run_program(main, service='probe'))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )
    return done.returncode, [json.loads(line) for line in done.stderr.splitlines()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_sets_stop_and_main_ends_by_itself(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WAIT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as it:
        assert it.stdout is not None
        assert it.stdout.readline() == "up\n"
        it.send_signal(number)
        out, err = it.communicate(timeout=60)
    assert (it.returncode, out) == (0, "stopped\n")
    assert json.loads(err)["event"] == "program_stopping"


def test_mesh_error_is_one_line_and_exit_status_1() -> None:
    code, lines = run("    raise FailedPrecondition('The disk is full.', reason='DISK_FULL', fix='Free some.')")
    assert code == 1
    assert [(line["event"], line["reason"], line["error"]) for line in lines] == [
        ("program_failed", "DISK_FULL", "The disk is full. Free some.")
    ]
    assert "exception" not in lines[0]


def test_mesh_error_inside_groups_is_found() -> None:
    code, lines = run("    raise ExceptionGroup('a', [ExceptionGroup('b', [FailedPrecondition('Deep.')])])")
    assert (code, [line["error"] for line in lines]) == (1, ["Deep."])


def test_unexpected_error_is_logged_with_its_traceback() -> None:
    code, lines = run("    1 / 0")
    assert code == 1
    assert [line["event"] for line in lines] == ["program_crashed"]
    assert "ZeroDivisionError" in lines[0]["exception"]


def test_level_that_is_none_is_told() -> None:
    code, lines = run("    pass", MESH_LOG_LEVEL="loud")
    assert code == 1
    assert "loud" in lines[0]["error"]


def test_main_that_returns_is_a_success() -> None:
    assert run("    return") == (0, [])
