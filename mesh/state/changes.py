"""What of a state was read, and what of it has changed since: so that only the readers of a change have work with it.

    track(state) ──> the same state, whose mappings note what is read of them ──> Reads
    changes_between(before, after) ──> Facts; who has read one of them reads again

A fact is a field of the state and a key of it, or EVERY_KEY for the set of its keys. Fields that are no mappings are
facts of everybody: when one of them changes, there is no saying who is concerned.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

from mesh.state.mesh_state import MeshState, changed_keys

Fact = tuple[str, str]
"""The name of a field and a key."""

EVERY_KEY = ""
"""Stands for the set of keys; no service has this name."""


def changes_between(before: MeshState, after: MeshState) -> set[Fact] | None:
    """The facts that differ; None when a field differs that everybody depends on."""
    facts: set[Fact] = set()
    for field in fields(after):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if old is new:
            continue
        if not isinstance(old, Mapping) or not isinstance(new, Mapping):
            if old == new:
                continue
            return None
        facts |= {(field.name, key) for key in changed_keys(old, new)}
        if old.keys() != new.keys():
            facts.add((field.name, EVERY_KEY))
    return facts


def track(state: MeshState) -> tuple[MeshState, set[Fact]]:
    """The same state, and a set that grows by the facts that are read of it."""
    facts: set[Fact] = set()
    tracked = {
        field.name: _TrackedMapping(field.name, value, facts)
        for field in fields(state)
        if isinstance(value := getattr(state, field.name), Mapping)
    }
    return replace(state, **tracked), facts  # type: ignore[arg-type]  # the names are those of its own fields


class _TrackedMapping(Mapping[str, Any]):
    """A mapping that notes what is read of it."""

    __slots__ = ("_facts", "_field", "_inner")

    def __init__(self, field: str, inner: Mapping[str, Any], facts: set[Fact]) -> None:
        self._field = field
        self._inner = inner
        self._facts = facts

    def __getitem__(self, key: str) -> Any:
        self._facts.add((self._field, key))
        return self._inner[key]

    def __contains__(self, key: object) -> bool:
        self._facts.add((self._field, str(key)))
        return key in self._inner

    def __iter__(self) -> Iterator[str]:
        self._facts.add((self._field, EVERY_KEY))
        return iter(self._inner)

    def __len__(self) -> int:
        self._facts.add((self._field, EVERY_KEY))
        return len(self._inner)
