"""Who runs the mesh of a state directory."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mesh.config import MeshSettings
from mesh.errors import AlreadyExists, FailedPrecondition
from services.meshctl.state_lock import find_holder, hold_state_dir

HOLD = """
import sys
from mesh.config import MeshSettings
from services.meshctl.state_lock import hold_state_dir
with hold_state_dir(MeshSettings.from_environment()):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def settings(tmp_path: Path) -> MeshSettings:
    return replace(MeshSettings.from_environment({}), state_dir=tmp_path / "state")


@pytest.fixture
def holder(settings: MeshSettings):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        env=os.environ | {"MESH_STATE_DIR": str(settings.state_dir)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate(timeout=10)


def test_nobody_holds_a_directory_that_is_not_there(settings: MeshSettings) -> None:
    assert find_holder(settings) is None
    assert not settings.state_dir.exists()


def test_the_holder_is_known_until_it_lets_go(settings: MeshSettings) -> None:
    with hold_state_dir(settings):
        assert find_holder(settings) == os.getpid()
    assert find_holder(settings) is None


def test_a_second_one_is_refused_and_told_who_the_first_is(settings: MeshSettings, holder) -> None:
    with pytest.raises(AlreadyExists, match=f"process {holder.pid}"), hold_state_dir(settings):
        pass
    assert find_holder(settings) == holder.pid


def test_what_a_killed_one_left_behind_does_not_count(settings: MeshSettings, holder) -> None:
    holder.kill()
    holder.wait(10)
    assert (settings.state_dir / "lock").read_text() == str(holder.pid)
    assert find_holder(settings) is None
    with hold_state_dir(settings):
        assert find_holder(settings) == os.getpid()


def test_a_directory_that_is_a_file_is_named(settings: MeshSettings) -> None:
    settings.state_dir.write_text("")
    with pytest.raises(FailedPrecondition, match=str(settings.state_dir)), hold_state_dir(settings):
        pass
    assert find_holder(settings) is None
