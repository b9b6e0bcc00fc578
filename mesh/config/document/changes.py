"""What differs between two documents, field by field."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mesh.config.document.models import MeshDocument
from mesh.config.document.printing import mask_values
from mesh.config.yaml_lines import Path, field_text


@dataclass(frozen=True, slots=True, order=True)
class ValueChange:
    """One field that differs. `before` and `after` are JSON, "" where there is no value; secrets are masked."""

    field: str
    before: str
    after: str


def changed_paths(before: MeshDocument, after: MeshDocument) -> tuple[ValueChange, ...]:
    """The fields that differ in what two documents say, sorted by field.

    Routes are told by name, as services.a.routes.canary.timeout, so that a new one in front does not
    change all that follow. An order that differs is a change of the list as a whole: its names.
    """
    old, new = _fields(before), _fields(after)
    return tuple(
        ValueChange(field_text(path), _shown(old.get(path)), _shown(new.get(path)))
        for path in sorted({*old, *new}, key=field_text)
        if path not in old or path not in new or old[path][0] != new[path][0]
    )


def _fields(document: MeshDocument) -> dict[Path, tuple[Any, Any]]:
    """Each value as it is and as it may be shown."""
    values = document.model_dump(mode="json", exclude_unset=True)
    found: dict[Path, tuple[Any, Any]] = {}
    _collect(found, (), values, mask_values(values))
    return found


def _collect(found: dict[Path, tuple[Any, Any]], path: Path, value: Any, shown: Any) -> None:
    if isinstance(value, Mapping) and value:
        for key in value:
            _collect(found, (*path, key), value[key], shown[key])
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) and "name" in item for item in value):
        names = [item["name"] for item in value]
        if len(names) > 1:
            found[path] = (names, names)
        for item, its in zip(value, shown, strict=True):
            rest = {key: below for key, below in item.items() if key != "name"}
            _collect(found, (*path, item["name"]), rest, its)
    elif path:
        found[path] = (value, shown)


def _shown(value: tuple[Any, Any] | None) -> str:
    return "" if value is None else json.dumps(value[1], ensure_ascii=False, sort_keys=True)
