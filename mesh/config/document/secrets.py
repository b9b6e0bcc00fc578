"""The values of the secrets that a document refers to, looked up as late as possible and kept nowhere.

env:NAME      a variable of the control plane's environment
file:/PATH    a file that the control plane can read; without the line end at its end
kv:NAME       what `meshctl secrets set NAME` keeps
"""

import asyncio
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from pydantic import BaseModel

from mesh.config.document.loading import LoadedDocument
from mesh.config.document.models import MeshDocument
from mesh.config.document.secret_store import LONGEST_SECRET, check_secret_value
from mesh.config.document.values import Secret
from mesh.config.yaml_lines import Path as YamlPath
from mesh.errors import DocumentInvalid, FailedPrecondition, InvalidInput

_OWN_VARIABLES = ("MESH_", "CONSUL_")


class KeptSecrets(Protocol):
    """Where secrets of kind kv: are."""

    async def get(self, name: str) -> str | None:
        """The value of a secret, None when there is none."""


@dataclass(frozen=True, slots=True)
class SecretSources:
    """Where secrets may come from.

    `private_dirs` are folders whose files are no secrets for documents: who may change the document could otherwise
    send the mesh's own keys anywhere in a header. For the same reason the mesh's own variables are none.
    """

    kept: KeptSecrets
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)
    private_dirs: tuple[Path, ...] = ()


def references_of(document: MeshDocument) -> Iterator[tuple[YamlPath, str]]:
    """Every reference to a secret in a document, with its path."""
    yield from _references((), document)


async def resolve_secrets(loaded: LoadedDocument, sources: SecretSources) -> Mapping[str, str]:
    """The value of each reference of a document.

    Raises DocumentInvalid that names each field and reference without a value, never a value; other MeshErrors when
    the place where secrets are kept cannot be reached.
    """
    fields: dict[str, list[YamlPath]] = {}
    for path, reference in references_of(loaded.document):
        fields.setdefault(reference, []).append(path)
    values: dict[str, str] = {}
    faults = []
    for reference, paths in fields.items():
        try:
            values[reference] = check_secret_value(await _value_of(reference, sources))
        except _NoValueError as err:
            faults += [loaded.fault(path, f"{reference}: {err}") for path in paths]
        except (InvalidInput, FailedPrecondition) as err:
            faults += [loaded.fault(path, f"{reference}: {err.summary} {err.fix}".rstrip(". ")) for path in paths]
    if faults:
        raise DocumentInvalid(faults)
    return MappingProxyType(values)


class _NoValueError(Exception):
    """Why there is no value; without the value."""


async def _value_of(reference: str, sources: SecretSources) -> str:
    kind, _, name = reference.partition(":")
    if kind == "env":
        if name.startswith(_OWN_VARIABLES):
            raise _NoValueError("this variable is the mesh's own; use another")
        value = sources.environment.get(name)
        if value is None:
            raise _NoValueError("the control plane's environment has no such variable; set it and start it again")
        return value
    if kind == "file":
        return await asyncio.to_thread(_read_file, Path(name), sources.private_dirs)
    kept = await sources.kept.get(name)
    if kept is None:
        raise _NoValueError(f"there is no such secret; set it with `meshctl secrets set {name}`")
    return kept


def _read_file(path: Path, private_dirs: tuple[Path, ...]) -> str:
    try:
        real = path.resolve(strict=True)
        if any(real.is_relative_to(directory.resolve()) for directory in private_dirs):
            raise _NoValueError("this file is the mesh's own; keep the secret elsewhere")
        # Without O_NONBLOCK a pipe in the file's place would hold us for ever.
        descriptor = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _NoValueError("this is no file")
            content = os.read(descriptor, LONGEST_SECRET + 2)
        finally:
            os.close(descriptor)
        return content.decode().removesuffix("\n").removesuffix("\r")
    except (OSError, RuntimeError) as err:
        detail = err.strerror if isinstance(err, OSError) else "the links to it go round in a circle"
        raise _NoValueError(f"the control plane cannot read it: {detail}") from err
    except UnicodeDecodeError as err:
        raise _NoValueError("this is no text in UTF-8") from err


def _references(path: YamlPath, value: Any) -> Iterator[tuple[YamlPath, str]]:
    if isinstance(value, Secret):
        yield path, value.secret
    elif isinstance(value, BaseModel):
        for name in value.model_fields_set:
            yield from _references((*path, name), getattr(value, name))
    elif isinstance(value, Mapping):
        for key, below in value.items():
            yield from _references((*path, key), below)
    elif isinstance(value, tuple):
        for number, item in enumerate(value):
            yield from _references((*path, number), item)
