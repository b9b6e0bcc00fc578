"""What several control planes take from and write to Consul's KV."""

import dataclasses
from pathlib import Path
from types import MappingProxyType

import pytest

from mesh.config import DeclarationStore
from mesh.discovery import ConsulEndpoint, KvEntry, KvView
from mesh.errors import InvalidInput
from mesh.model import Address, Declaration
from services.control_plane.shared_declarations import PREFIX, SharedDeclarations, build_entry, parse_entry

DECLARED = Declaration("a", "agent", ("b", "c"))


def view(**values: bytes) -> KvView:
    entries = {f"{PREFIX}{name}": KvEntry(f"{PREFIX}{name}", value, 1) for name, value in values.items()}
    return KvView(MappingProxyType(entries), is_available=True)


@dataclasses.dataclass
class Parts:
    store: DeclarationStore
    shared: SharedDeclarations
    changes: list[None]


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    store = DeclarationStore.open(tmp_path / "declarations.json")
    changes: list[None] = []
    endpoint = ConsulEndpoint(Address("127.0.0.1", 1))
    return Parts(store, SharedDeclarations(store, endpoint, lambda: changes.append(None)), changes)


@pytest.mark.parametrize("declaration", [DECLARED, None])
def test_an_entry_is_read_back_as_it_was_written(declaration: Declaration | None) -> None:
    assert parse_entry("a", build_entry(declaration)) == declaration


@pytest.mark.parametrize(
    "value",
    [b"", b"[]", b"{}", b'{"kind": 1, "upstreams": []}', b'{"kind": "agent", "upstreams": [1]}', b"\xff", b"[" * 99999],
)
def test_an_entry_that_is_none_is_refused_by_its_key(value: bytes) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_entry("a", value)
    assert refused.value.field == f"{PREFIX}a"


def test_what_another_control_plane_declared_is_taken_and_told_once(parts: Parts) -> None:
    for _ in range(2):
        parts.shared.take(view(a=build_entry(DECLARED)))
    assert parts.store.declarations == {"a": DECLARED}
    assert len(parts.changes) == 1


def test_what_another_control_plane_removed_is_removed(parts: Parts) -> None:
    parts.store.declare(DECLARED)
    parts.shared.take(view(a=build_entry(None)))
    assert parts.store.declarations == {}
    assert len(parts.changes) == 1


def test_what_was_said_here_and_not_written_yet_is_not_overwritten(parts: Parts) -> None:
    parts.store.declare(DECLARED)
    parts.shared.note("a")
    parts.shared.take(view(a=build_entry(dataclasses.replace(DECLARED, upstreams=()))))
    assert parts.store.declarations == {"a": DECLARED}


def test_a_registry_that_lost_its_data_takes_nothing_away(parts: Parts) -> None:
    parts.store.declare(DECLARED)
    parts.shared.take(view())
    assert parts.store.declarations == {"a": DECLARED}
    assert parts.changes == []


def test_a_broken_or_reserved_entry_hurts_no_other(parts: Parts) -> None:
    reserved = build_entry(dataclasses.replace(DECLARED, service="consul"))
    parts.shared.take(view(bad=b"{", consul=reserved, a=build_entry(DECLARED)))
    assert parts.store.declarations == {"a": DECLARED}
