"""From the layers of a revision to the policy that they mean, and back from a field to the line that set it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import yaml
from pydantic import ValidationError

from mesh.config.document import MeshDocument, Policy, merge
from mesh.config.history import Layer, Origin
from mesh.errors import InvalidInput
from mesh.xds.rollout import ChangedField


class DocumentFaults(InvalidInput):
    """A document that is not valid, with all that is wrong."""

    def __init__(self, faults: Sequence[Origin]) -> None:
        first = faults[0]
        rest = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
        super().__init__(
            f"The document is not valid: {first.source}:{first.line}: {first.reason}{rest}.",
            reason="DOCUMENT_INVALID",
            field=first.field,
        )
        self.faults = tuple(faults)


@dataclass(frozen=True, slots=True)
class Reading:
    """A document that is valid, with the layers that it was made of."""

    policy: Policy
    layers: tuple[Layer, ...] = field(repr=False)

    def origin(self, path: str) -> Origin:
        """The place that set a field, or the nearest one to it."""
        for layer in reversed(self.layers):
            return Origin(layer.source, 0, path)
        return Origin("", 0, path)

    @property
    def text(self) -> str:
        """The effective document, YAML; secrets are references."""
        plain = self.policy.document.model_dump(mode="json", exclude_unset=True)
        return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One value that differs; JSON, "" for none."""

    path: str
    before: str
    after: str


def read_layers(layers: Sequence[Layer], *, revision: int = 0) -> Reading:
    """Read layers, from the lowest to the highest; raises DocumentFaults with all that is wrong."""
    nothing: dict[str, Any] = {}
    values = reduce(merge, (yaml.safe_load(layer.text) or {} for layer in layers), nothing)
    try:
        document = MeshDocument.model_validate(values)
    except ValidationError as err:
        raise DocumentFaults(
            [
                Origin(layers[-1].source, 0, ".".join(map(str, each["loc"])), each["msg"])
                for each in err.errors(include_url=False, include_input=False)
            ]
        ) from None
    return Reading(Policy(document, revision), tuple(layers))


def changed_fields(before: Reading, after: Reading) -> list[FieldChange]:
    """The values that differ between two documents, sorted by path."""
    old, new = dict(_leaves(_plain(before))), dict(_leaves(_plain(after)))
    return [
        FieldChange(path, old.get(path, ""), new.get(path, ""))
        for path in sorted({*old, *new})
        if old.get(path) != new.get(path)
    ]


def as_causes(changes: Sequence[FieldChange]) -> list[ChangedField]:
    """Changes as the judgement takes them."""
    return [ChangedField(change.path, change.after) for change in changes]


def _plain(reading: Reading) -> Any:
    return reading.policy.document.model_dump(mode="json", exclude_unset=True)


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, below in value.items():
            yield from _leaves(below, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and value:
        for number, below in enumerate(value):
            yield from _leaves(below, f"{path}[{number}]")
    else:
        yield path, json.dumps(value, ensure_ascii=False)
