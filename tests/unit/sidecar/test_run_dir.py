import socket
from pathlib import Path

import pytest

from mesh.errors import AlreadyExists, FailedPrecondition, InvalidInput
from mesh.sidecar.run_dir import RunDirectory, open_run_dir

SOCKETS = ("app_socket", "outbound_socket", "admin_socket")


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


def test_it_is_private_and_removed_at_the_end(short_dir: Path) -> None:
    with open_run_dir(short_dir, "echo-1", is_kept=False) as run:
        assert run.path == short_dir / "run" / "echo-1"
        assert run.path.stat().st_mode & 0o777 == 0o700
        (run.secrets).mkdir()
        (run.secrets / "key.pem").write_text("secret")
    assert not run.path.exists()


def test_what_is_kept_loses_its_sockets_and_nothing_else(short_dir: Path) -> None:
    with open_run_dir(short_dir, "echo-1", is_kept=True) as run:
        (run.path / "secret").write_text("kept")
        for name in SOCKETS:
            make_socket(getattr(run, name))
    assert sorted(path.name for path in run.path.iterdir()) == ["lock", "secret"]


def test_stale_sockets_of_a_killed_member_are_removed(short_dir: Path) -> None:
    run = RunDirectory(short_dir / "run" / "echo-1")
    run.path.mkdir(parents=True)
    for name in SOCKETS:
        make_socket(getattr(run, name))
    with open_run_dir(short_dir, "echo-1", is_kept=True):
        assert not any(getattr(run, name).exists() for name in SOCKETS)


def test_a_living_member_keeps_its_folder(short_dir: Path) -> None:
    with open_run_dir(short_dir, "echo-1", is_kept=False) as run:
        make_socket(run.app_socket)
        with (
            pytest.raises(AlreadyExists, match="echo-1 runs already"),
            open_run_dir(short_dir, "echo-1", is_kept=False),
        ):
            pass
        assert run.app_socket.exists()
        with open_run_dir(short_dir, "echo-2", is_kept=False):
            pass


def test_a_path_that_is_too_long_for_sockets_is_named(short_dir: Path) -> None:
    long = short_dir / ("x" * 80)
    with pytest.raises(InvalidInput, match=f"{long}.* too long") as caught, open_run_dir(long, "echo-1", is_kept=True):
        pass
    assert caught.value.field == "MESH_STATE_DIR"
    assert not long.exists()


@pytest.mark.parametrize("instance", ["", ".", "..", "../up", "a/b", "a b", "-a", "x" * 200, "a\0"])
def test_what_is_no_name_of_an_instance_is_refused(short_dir: Path, instance: str) -> None:
    with pytest.raises(InvalidInput, match="no name of an instance"), open_run_dir(short_dir, instance, is_kept=True):
        pass
    assert list(short_dir.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(short_dir: Path) -> None:
    (short_dir / "run").write_text("a file in the way")
    with pytest.raises(FailedPrecondition, match=str(short_dir)), open_run_dir(short_dir, "echo-1", is_kept=True):
        pass
    # Not even for root.
    with pytest.raises(FailedPrecondition, match="/proc"), open_run_dir(Path("/proc"), "echo-1", is_kept=True):
        pass


def test_what_cannot_be_cleared_away_is_named(short_dir: Path) -> None:
    in_the_way = short_dir / "run" / "echo-1" / "app.sock"
    in_the_way.mkdir(parents=True)
    with pytest.raises(FailedPrecondition, match=str(in_the_way)), open_run_dir(short_dir, "echo-1", is_kept=True):
        pass


def test_errors_of_the_body_pass_through(short_dir: Path) -> None:
    with pytest.raises(OSError, match="of the body"), open_run_dir(short_dir, "echo-1", is_kept=False):
        raise OSError("of the body")
    assert list((short_dir / "run").iterdir()) == []
