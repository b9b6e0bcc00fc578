import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from mesh.access.stored import Stored
from mesh.errors import FailedPrecondition


def test_what_is_changed_is_there_for_others(tmp_path):
    one, other = Stored(tmp_path / "a.json"), Stored(tmp_path / "a.json")
    one.change(lambda content: content.update(x=1))
    assert dict(other.content) == {}
    assert other.reload()
    assert dict(other.content) == {"x": 1}
    assert not other.reload()


def test_the_file_and_its_folder_are_for_nobody_else(tmp_path):
    path = tmp_path / "folder" / "a.json"
    Stored(path).change(lambda content: content.update(x=1))
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_changes_of_many_at_once_are_all_there(tmp_path):
    path = tmp_path / "a.json"

    def add(number):
        Stored(path).change(lambda content: content.update({str(number): number}))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(40)))
    assert len(json.loads(path.read_text())) == 40


def test_what_a_change_raises_changes_nothing(tmp_path):
    stored = Stored(tmp_path / "a.json")

    def change(content):
        content["x"] = 1
        raise KeyError("no")

    with pytest.raises(KeyError):
        stored.change(change)
    assert dict(Stored(tmp_path / "a.json").content) == {}


@pytest.mark.parametrize("text", ["{", "[]", "\x00", "12"])
def test_a_damaged_file_is_told(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(FailedPrecondition) as found:
        Stored(path)
    assert str(path) in str(found.value)
