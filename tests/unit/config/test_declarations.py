import json
import stat

import pytest

from mesh.config import DeclarationStore
from mesh.errors import FailedPrecondition, InvalidInput
from mesh.model import Declaration

AGENT = Declaration("von-neumann", "agent", ("financial", "utilities"))


def test_declarations_survive_in_the_file(tmp_path):
    path = tmp_path / "state" / "declarations.json"
    DeclarationStore.open(path).declare(AGENT)
    assert DeclarationStore.open(path).declarations == {"von-neumann": AGENT}


def test_a_later_declaration_replaces_the_earlier_one(tmp_path):
    store = DeclarationStore.open(tmp_path / "d.json")
    store.declare(AGENT)
    store.declare(Declaration("von-neumann", "agent", ("*",)))
    assert DeclarationStore.open(tmp_path / "d.json").declarations["von-neumann"].upstreams == ("*",)


def test_a_mapping_given_out_does_not_change(tmp_path):
    store = DeclarationStore.open(tmp_path / "d.json")
    before = store.declarations
    store.declare(AGENT)
    assert before == {}


def test_the_file_is_private_and_no_other_file_is_left(tmp_path):
    DeclarationStore.open(tmp_path / "d.json").declare(AGENT)
    assert stat.S_IMODE((tmp_path / "d.json").stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["d.json"]


@pytest.mark.parametrize(
    ("declaration", "field"),
    [
        (Declaration("Von Neumann", "agent"), "service"),
        (Declaration("financial", "server"), "kind"),
        (Declaration("financial", "mcp", ("*", "No Name")), "upstreams[1]"),
    ],
)
def test_what_is_no_declaration_is_refused_and_changes_nothing(tmp_path, declaration, field):
    store = DeclarationStore.open(tmp_path / "d.json")
    with pytest.raises(InvalidInput) as caught:
        store.declare(declaration)
    assert caught.value.field == field
    assert store.declarations == {}
    assert not (tmp_path / "d.json").exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"text"',
        "{}",
        '{"version": 2, "declarations": {}}',
        '{"version": 1, "declarations": []}',
        '{"version": 1, "declarations": {"a": {"kind": "agent", "upstreams": "b"}}}',
        '{"version": 1, "declarations": {"a": {"kind": "agent", "upstreams": [1]}}}',
        '{"version": 1, "declarations": {"a": {"kind": "nothing", "upstreams": []}}}',
        '{"version": 1, "declarations": {"A B": {"kind": "agent", "upstreams": []}}}',
        "[" * 100_000,
    ],
)
def test_a_corrupt_file_is_named_with_a_way_out(tmp_path, text):
    path = tmp_path / "d.json"
    path.write_text(text)
    with pytest.raises(FailedPrecondition) as caught:
        DeclarationStore.open(path)
    assert str(path) in caught.value.summary
    assert caught.value.fix
    assert path.read_text() == text


def test_bytes_that_are_no_text_are_corrupt_too(tmp_path):
    (tmp_path / "d.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FailedPrecondition, match=r"d\.json"):
        DeclarationStore.open(tmp_path / "d.json")


def test_a_file_that_cannot_be_written_keeps_the_declarations_as_they_were(tmp_path):
    (tmp_path / "file").write_text("")
    store = DeclarationStore(tmp_path / "file" / "d.json", {})
    with pytest.raises(FailedPrecondition, match="cannot be written"):
        store.declare(AGENT)
    assert store.declarations == {}


def test_the_file_can_be_read_by_people(tmp_path):
    DeclarationStore.open(tmp_path / "d.json").declare(AGENT)
    assert json.loads((tmp_path / "d.json").read_text()) == {
        "version": 1,
        "declarations": {"von-neumann": {"kind": "agent", "upstreams": ["financial", "utilities"]}},
    }
