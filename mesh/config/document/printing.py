"""The document as text: YAML that reads back the same, and with what looks like a secret masked."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml

from mesh.config.document.loading import LoadedDocument, Origin
from mesh.config.document.models import MeshDocument
from mesh.config.document.words import SECRET_HEADERS
from mesh.config.yaml_lines import field_text

MASK = "***"
_OF_HEADERS = ("set", "add", "headers")
_SECRET_HEADERS = SECRET_HEADERS | {"cookie", "set-cookie"}
_SECRET_PARTS = ("password", "secret", "token", "api-key", "apikey", "credential")


def document_text(document: MeshDocument) -> str:
    """The document as YAML: what was said, without built-in values. Reading it gives an equal document."""
    return to_yaml(document.model_dump(mode="json", exclude_unset=True))


def to_yaml(values: Any) -> str:
    """Plain values as YAML for people; texts that YAML 1.1 or 1.2 could take for something else are in quotes."""
    # libyaml's emitter would write some characters that neither of the parsers reads again.
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100, default_flow_style=False)


def mask(document: MeshDocument) -> dict[str, Any]:
    """The document as plain values for printing: header values that look like secrets are masked.

    References to secrets stay: they tell where a secret is, not what it is.
    """
    masked: dict[str, Any] = mask_values(document.model_dump(mode="json", exclude_unset=True))
    return masked


def mask_values(values: Any, *, of_headers: bool = False) -> Any:
    """Plain values of a document, masked as `mask` does; `of_headers` tells that their keys are names of headers."""
    if isinstance(values, Mapping):
        return {
            key: _masked(value)
            if of_headers and is_secret_header(key)
            else mask_values(value, of_headers=key in _OF_HEADERS)
            for key, value in values.items()
        }
    if isinstance(values, list | tuple):
        return [mask_values(value) for value in values]
    return values


def is_secret_header(name: str) -> bool:
    """Whether a header of this name is likely to hold a secret."""
    return name in _SECRET_HEADERS or any(part in name.lower() for part in _SECRET_PARTS)


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return MASK
    if isinstance(value, Mapping):
        return value if set(value) == {"secret"} else {key: _masked(below) for key, below in value.items()}
    return value


def masked_origins(loaded: LoadedDocument) -> Iterator[tuple[str, Any, Origin]]:
    """Field, value and origin of each value of a document, sorted by field; masked as `mask` does.

    Built-in values are told of `mesh` and `defaults`; of services and intentions what is said of them.
    """
    shown = mask_values(loaded.document.model_dump(mode="json"))
    found = [(field_text(path), _at(shown, path), origin) for path, _, origin in loaded.origins()]
    yield from sorted(found, key=lambda each: each[0])


def _at(values: Any, path: Iterable[str | int]) -> Any:
    for step in path:
        values = values[step]
    return values


class _Dumper(yaml.SafeDumper):
    """PyYAML quotes what YAML 1.1 takes for something else than text; here also what YAML 1.2 does."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # Only inside double quotes are the line breaks of Unicode escaped; anywhere else they are read as a space.
    style = '"' if any(character in text for character in "\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
for _pattern, _first in ((r"0o[0-7]+", "0"), (r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789")):
    _Dumper.add_implicit_resolver("tag:agentmesh,2026:number", re.compile(f"(?:{_pattern})$"), list(_first))
