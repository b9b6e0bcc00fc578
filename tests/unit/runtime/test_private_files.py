import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mesh.errors import FailedPrecondition
from mesh.runtime.private_files import hold_private_dir, make_private_dir, read_secret, remove_file, write_file


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def fail_with(code: int) -> object:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_a_file_has_its_mode_and_content_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    write_file(tmp_path / "a", b"1", mode=0o600)
    write_file(tmp_path / "a", b"2", mode=0o600)
    assert (tmp_path / "a").read_bytes() == b"2"
    assert mode_of(tmp_path / "a") == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_write_that_fails_names_the_file_and_keeps_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    write_file(tmp_path / "a", b"before", mode=0o600)
    monkeypatch.setattr("os.fsync", fail_with(code))
    with pytest.raises(FailedPrecondition) as caught:
        write_file(tmp_path / "a", b"after", mode=0o600)
    assert caught.value.reason == "STATE_NOT_WRITABLE"
    assert caught.value.field == str(tmp_path / "a")
    assert os.strerror(code) in str(caught.value)
    assert "MESH_STATE_DIR" in caught.value.fix
    assert (tmp_path / "a").read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_writers_side_by_side_never_put_half_a_file_in_place(tmp_path: Path) -> None:
    path = tmp_path / "a"
    contents = {bytes([letter]) * 50_000 for letter in b"abcd"}
    write_file(path, b"a" * 50_000, mode=0o600)

    def write(content: bytes) -> None:
        for _ in range(15):
            write_file(path, content, mode=0o600)
            assert path.read_bytes() in contents

    with ThreadPoolExecutor(len(contents)) as pool:
        list(pool.map(write, contents))
    assert [found.name for found in tmp_path.iterdir()] == ["a"]


def test_a_private_folder_is_0700_even_when_it_was_open_before(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o755)
    make_private_dir(tmp_path / "a")
    make_private_dir(tmp_path / "b" / "c")
    assert mode_of(tmp_path / "a") == mode_of(tmp_path / "b" / "c") == 0o700


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(FailedPrecondition) as caught:
        make_private_dir(tmp_path / "a")
    assert caught.value.field == str(tmp_path / "a")


def test_a_folder_on_a_read_only_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.open", fail_with(errno.EROFS))
    with pytest.raises(FailedPrecondition) as caught, hold_private_dir(tmp_path):
        raise AssertionError
    assert caught.value.reason == "STATE_NOT_WRITABLE"
    assert os.strerror(errno.EROFS) in str(caught.value)


def test_a_held_folder_keeps_others_out_and_says_so(tmp_path: Path) -> None:
    with (
        hold_private_dir(tmp_path),
        pytest.raises(FailedPrecondition) as caught,
        hold_private_dir(tmp_path, timeout=0.02),
    ):
        raise AssertionError
    assert caught.value.reason == "STATE_LOCKED"
    assert caught.value.field == str(tmp_path / "lock")
    with hold_private_dir(tmp_path, timeout=0.02):
        pass


def test_what_a_killed_writer_left_is_removed_by_the_next_holder(tmp_path: Path) -> None:
    (tmp_path / ".root.key.0123.new").write_bytes(b"half")
    with hold_private_dir(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FailedPrecondition), hold_private_dir(tmp_path):
        raise AssertionError
    assert not (tmp_path / "elsewhere").exists()


def test_a_secret_that_others_could_read_is_tightened_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"hush")
    path.chmod(0o644)
    assert read_secret(path) == b"hush"
    assert mode_of(path) == 0o600
    logged = capsys.readouterr().err
    assert "secret_file_tightened" in logged and str(path) in logged and "hush" not in logged


def test_there_is_no_secret_where_there_is_no_file(tmp_path: Path) -> None:
    assert read_secret(tmp_path / "none") is None
    remove_file(tmp_path / "none")


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dir").mkdir()
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 30)
    for name in ("pipe", "dir", "huge"):
        with pytest.raises(FailedPrecondition) as caught:
            read_secret(tmp_path / name)
        assert caught.value.field == str(tmp_path / name)
