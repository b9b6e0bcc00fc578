"""`meshctl up` when its start fails or is broken off, and when it is killed."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

MESHCTL = (sys.executable, "-m", "services.meshctl.main")
ECHO = str(Path(__file__).parent / "servers" / "echo.py")
SLOW = f"""
services:
  echo: {{kind: service, command: [python, {ECHO}]}}
  slow: {{kind: service, command: [sleep, "300"]}}
"""
BROKEN = f"""
services:
  echo: {{kind: service, command: [python, {ECHO}]}}
  broken: {{kind: service, command: [python, -c, "import sys; sys.exit('out of luck')"]}}
"""
# After two seconds it falls over, again and again.
CRASHING = f"""
services:
  crashing: {{kind: service, command: [sh, -c, "timeout 2 {sys.executable} {ECHO}; echo fell over >&2; exit 3"]}}
"""


@pytest.fixture
def start(mesh_environment, short_dir, tmp_path):
    """Start `up` of a mesh file, as often as the test likes, and look at what it has left behind."""
    env = mesh_environment(short_dir)
    started = []

    def start(mesh_file: str) -> subprocess.Popen[str]:
        (tmp_path / "mesh.yaml").write_text(mesh_file)
        up = subprocess.Popen(
            [*MESHCTL, "up", "--file", str(tmp_path / "mesh.yaml")],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(up)
        return up

    start.env = env
    start.left = lambda: processes_with(str(short_dir))
    yield start
    for up in started:
        with contextlib.suppress(ProcessLookupError):
            up.kill()
        up.communicate(timeout=10)


def processes_with(sign: str) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            texts = [(entry / name).read_bytes().replace(b"\0", b" ").decode() for name in ("cmdline", "environ")]
            if texts[0] and sign in " ".join(texts):
                found.append(texts[0])
    return found


def meshctl(start, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*MESHCTL, *words], env=start.env, capture_output=True, text=True, timeout=60)


def test_a_member_that_does_not_start_is_named_and_all_others_stop(start):
    up = start(BROKEN)
    said, _ = up.communicate(timeout=60)
    assert up.returncode == 1
    assert "broken-1 FAILED to start" in said
    assert "error: broken-1 did not start: " in said
    assert "out of luck" in said
    assert "Traceback" not in said
    assert start.left() == []


@pytest.mark.parametrize("sign", ["control plane started", "echo-1 joined"])
def test_a_start_can_be_broken_off_with_down(start, lines_of, sign):
    up = start(SLOW)
    lines_of(up).read_until(sign, 60)
    done = meshctl(start, "down")
    assert done.stdout == "stopped\n", done.stderr
    assert up.wait(10) == 0
    assert start.left() == []


def test_a_crash_loop_shows_in_status_and_a_killed_up_leaves_nothing_that_stands_in_the_way(start, lines_of):
    up = start(CRASHING)
    lines_of(up).read_until("s  ready", 60)

    def crashes():
        done = meshctl(start, "status", "--output", "json")
        assert done.stdout, done.stderr
        return [crash for crash in json.loads(done.stdout)["crashes"] if crash["name"] == "crashing"]

    end = time.monotonic() + 30
    while not (found := crashes()) or found[0]["count"] < 2:
        assert time.monotonic() < end
    assert found[0]["said"] == "fell over"

    up.send_signal(signal.SIGKILL)
    up.wait(10)
    end = time.monotonic() + 15
    while left := start.left():
        assert time.monotonic() < end, left
        time.sleep(0.05)  # processes of others end without a word to us
    assert meshctl(start, "down").stdout.startswith("No mesh runs")
    assert meshctl(start, "status").returncode == 3

    again = start(CRASHING)
    assert "s  ready" in lines_of(again).read_until("s  ready", 60)
    again.send_signal(signal.SIGINT)
    assert again.wait(60) == 0
    assert start.left() == []
