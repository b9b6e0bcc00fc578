"""What operators declared about services, kept in a file."""

import difflib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from mesh.errors import FailedPrecondition, InvalidInput, NotFound
from mesh.model import KINDS, Declaration, check_service_name

_VERSION = 1


class DeclarationStore:
    """The declarations of a mesh, in a JSON file of mode 0600 that is replaced as a whole at every change.

    One process owns the file. Made by `open`.
    """

    def __init__(self, path: Path, declarations: Mapping[str, Declaration]) -> None:
        self._path = path
        self._declarations = MappingProxyType(dict(declarations))

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read the file; one that is not there is an empty one. Raises FailedPrecondition when it is of no use."""
        try:
            text = path.read_text()
        except FileNotFoundError:
            return cls(path, {})
        except (OSError, UnicodeDecodeError) as err:
            raise _unusable(path, str(err)) from err
        try:
            return cls(path, _parse(json.loads(text)))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, InvalidInput) as err:
            raise _unusable(path, str(err)) from err

    @property
    def declarations(self) -> Mapping[str, Declaration]:
        """All declarations by the name of the service, as they are now; the mapping never changes."""
        return self._declarations

    def declare(self, declaration: Declaration) -> None:
        """Add or replace the declaration of one service; it is on disk when this returns.

        Raises InvalidInput for names and kinds that are none, FailedPrecondition when the file cannot be written; the
        declarations then stay as they were.
        """
        check_declaration(declaration)
        if self._declarations.get(declaration.service) == declaration:
            return
        declarations = {**self._declarations, declaration.service: declaration}
        self._write(declarations)
        self._declarations = MappingProxyType(declarations)

    def forget(self, service: str) -> None:
        """Remove the declaration of one service; it is gone from the disk when this returns.

        Raises NotFound that names the nearest when there is none, FailedPrecondition when the file cannot be written.
        """
        if service not in self._declarations:
            near = difflib.get_close_matches(service, self._declarations, n=3, cutoff=0.4)
            fix = f"Did you mean {' or '.join(near)}?" if near else ""
            raise NotFound(f"{service} is not declared.", reason="NOT_DECLARED", field="name", fix=fix)
        declarations = {name: kept for name, kept in self._declarations.items() if name != service}
        self._write(declarations)
        self._declarations = MappingProxyType(declarations)

    def _write(self, declarations: Mapping[str, Declaration]) -> None:
        content = {
            "version": _VERSION,
            "declarations": {
                name: {"kind": declaration.kind, "upstreams": list(declaration.upstreams)}
                for name, declaration in sorted(declarations.items())
            },
        }
        temporary = self._path.with_name(f".{self._path.name}.new")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(json.dumps(content, indent=1) + "\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError as err:
            raise FailedPrecondition(
                f"{self._path} cannot be written: {err.strerror or err}.",
                reason="STATE_NOT_WRITABLE",
                fix="Make room or make it writable, or set MESH_STATE_DIR to another directory.",
            ) from err


def check_declaration(declaration: Declaration) -> None:
    """Raise InvalidInput unless service, kind and upstreams can be those of a service."""
    check_service_name(declaration.service, field="service")
    if declaration.kind not in KINDS:
        raise InvalidInput(f"{declaration.kind!r} is not a kind.", field="kind", fix=f"Use one of {', '.join(KINDS)}.")
    for number, upstream in enumerate(declaration.upstreams):
        if upstream != "*":
            check_service_name(upstream, field=f"upstreams[{number}]")


def _parse(content: Any) -> dict[str, Declaration]:
    if content["version"] != _VERSION:
        raise ValueError(f"its version is {content['version']!r}, this program reads {_VERSION}")
    declarations = {}
    for name, entry in content["declarations"].items():
        upstreams = entry["upstreams"]
        if not isinstance(upstreams, list) or not all(isinstance(word, str) for word in (entry["kind"], *upstreams)):
            raise ValueError(f"the entry of {name!r} has another form")
        declarations[name] = Declaration(name, entry["kind"], tuple(upstreams))
        check_declaration(declarations[name])
    return declarations


def _unusable(path: Path, detail: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"{path} cannot be used: {detail.rstrip('.')}.",
        reason="STATE_CORRUPT",
        fix="Move it away to start without declarations (meshctl up and meshctl run declare anew), or restore it.",
    )
