"""From layers of text to one document, and back from each value to the line that set it.

    defaults.yaml < production.yaml < operator
         └──────────────┴───────────────┴──> load_document ──> LoadedDocument: document, origin(path), where(path)

Mappings merge; lists and scalars of a higher layer replace those of lower ones. A null takes away what lower layers
say: an entry of a mapping is gone, a field is at its default, and a field that may be absent is absent.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

from pydantic import ValidationError

from mesh.config.document.models import MeshDocument, Service
from mesh.config.document.policy import merge
from mesh.config.document.shape import fields_at, without_nulls
from mesh.config.reasons import reason_of
from mesh.config.yaml_lines import Path, YamlText, field_text, parse_yaml
from mesh.errors import DocumentInvalid, Fault


@dataclass(frozen=True, slots=True)
class Layer:
    """One source of the document: what it is called, where it comes from (a path, a key), and its YAML."""

    name: str
    source: str
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was set: the name and the source of the layer, and the line, 0 when there is none."""

    layer: str
    source: str
    line: int


BUILT_IN = Origin("built-in", "", 0)
"""Of values that no layer sets."""


@dataclass(frozen=True, slots=True)
class LoadedDocument:
    """A document that fits its model, with the layers that it was made of, from the lowest to the highest."""

    document: MeshDocument
    layers: tuple[Layer, ...]
    _texts: tuple[YamlText, ...] = field(repr=False, compare=False)

    def origin(self, path: Sequence[str | int]) -> Origin:
        """The layer and line that set the value at a path; BUILT_IN when none does."""
        return _find(self.layers, self._texts, path)[0]

    def where(self, path: Sequence[str | int]) -> Origin:
        """The layer and line of the deepest value on a path that some layer sets.

        Items of lists are found by number and by name: ("services", "a", "routes", "canary", "timeout").
        """
        return _find(self.layers, self._texts, path)[1]

    def fault(self, path: Sequence[str | int], reason: str) -> Fault:
        """A fault of the value at a path."""
        return _fault(self.layers, self._texts, path, reason)

    def origins(self) -> Iterator[tuple[Path, Any, Origin]]:
        """Each value with its path and origin, in the order of the models: first those of `mesh` and `defaults`,
        built-in ones included, then what is said of services and intentions.

        Values are as in JSON. A list of texts or numbers is one value.
        """
        whole = self.document.model_dump(mode="json", include={"mesh", "defaults"})
        said = self.document.model_dump(mode="json", exclude_unset=True, include={"services", "intentions"})
        for path, value in leaves_of(whole | said):
            yield path, value, self.origin(path)


def load_document(layers: Sequence[Layer]) -> LoadedDocument:
    """Read layers, from the lowest to the highest, into one document.

    Raises DocumentInvalid with every fault that is found: those of the texts first, and when there are none, those of
    the document that they make.
    """
    kept = tuple(layers)
    texts = tuple(parse_yaml(layer.text) for layer in kept)
    faults = [
        Fault(layer.source, flaw.line, field_text(flaw.path), flaw.reason)
        for layer, text in zip(kept, texts, strict=True)
        for flaw in text.flaws
    ]
    faults += [
        Fault(layer.source, text.line(()), "", 'this must be a mapping of "name: value" lines')
        for layer, text in zip(kept, texts, strict=True)
        if not text.flaws and not isinstance(text.value, Mapping | None)
    ]
    if faults:
        raise DocumentInvalid(faults)
    values = without_nulls(reduce(merge, (text.value or {} for text in texts), {}))
    try:
        document = MeshDocument.model_validate(values)
    except ValidationError as err:
        raise DocumentInvalid(
            [_fault(kept, texts, path, reason) for path, reason in model_flaws(err, values)]
        ) from None
    flaws = list(_flaws_with_defaults(document))
    if flaws:
        raise DocumentInvalid([_fault(kept, texts, path, reason) for path, reason in flaws])
    return LoadedDocument(document, kept, texts)


def model_flaws(error: ValidationError, values: Any) -> Iterator[tuple[Path, str]]:
    """Path and reason of each error of the model."""
    # The cause of an error may hold what stands in the document; that is never passed on as it is.
    for each in error.errors(include_url=False, include_input=False):
        path = _path_in(values, each["loc"], is_missing=each["type"] == "missing")
        fields = fields_at(path[:-1]) if each["type"] == "extra_forbidden" else ()
        yield path, reason_of(each, fields)


def leaves_of(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """The values of plain data with their paths; a list that holds no mapping is one value, an empty mapping, too."""
    if isinstance(value, Mapping) and value:
        for key, below in value.items():
            yield from leaves_of(below, (*path, key))
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        for number, item in enumerate(value):
            yield from leaves_of(item, (*path, number))
    else:
        yield path, value


def _flaws_with_defaults(document: MeshDocument) -> Iterator[tuple[Path, str]]:
    """What a service says and what the defaults say may not go together."""
    defaults = document.defaults.model_dump(exclude_unset=True)
    if not defaults:
        return
    for name, service in document.services.items():
        values = merge(defaults, service.model_dump(exclude_unset=True))
        try:
            Service.model_validate(values)
        except ValidationError as err:
            for path, reason in model_flaws(err, values):
                yield ("services", name, *path), f"with `defaults`: {reason}"


def _path_in(values: Any, location: Sequence[str | int], *, is_missing: bool) -> Path:
    """The path in the text: pydantic's also has steps for forms that people write shorter, and for alternatives."""
    path: list[str | int] = []
    for number, step in enumerate(location):
        is_item = isinstance(values, list | tuple) and isinstance(step, int) and step < len(values)
        if is_item or (isinstance(values, Mapping) and step in values):
            values = values[step]
        elif not (is_missing and number == len(location) - 1):
            continue
        path.append(step)
    return tuple(path)


def _find(layers: Sequence[Layer], texts: Sequence[YamlText], path: Sequence[str | int]) -> tuple[Origin, Origin]:
    """Who set the value at a path, and who the deepest one on the way to it."""
    deepest, nearest = -1, BUILT_IN
    for layer, text in zip(reversed(layers), reversed(texts), strict=True):
        line, depth, is_open = text.reach(path)
        if depth > deepest:
            deepest, nearest = depth, Origin(layer.name, layer.source, line)
        if depth == len(path):
            return Origin(layer.name, layer.source, line), nearest
        if depth and not is_open:
            # A list or a scalar is on the way: what lower layers say there does not count.
            break
    return BUILT_IN, nearest


def _fault(layers: Sequence[Layer], texts: Sequence[YamlText], path: Sequence[str | int], reason: str) -> Fault:
    origin = _find(layers, texts, path)[1]
    return Fault(origin.source, origin.line, field_text(path), reason)
