"""The mesh file: which services `meshctl up` starts, in YAML for people.

services:
  financial: {kind: mcp, command: [python, -m, services.financial], instances: 1}
  von-neumann: {kind: agent, command: [python, -m, services.von_neumann], upstreams: [financial]}
"""

import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mesh.config.reasons import nearest, reason_of
from mesh.config.yaml_lines import Path as YamlPath
from mesh.config.yaml_lines import YamlText, field_text, parse_yaml
from mesh.errors import InvalidInput
from mesh.model import Declaration, check_service_name

Kind = Literal["agent", "gateway", "mcp", "service"]

_MAX_FAULTS = 10
METADATA_KEY = re.compile(r"[A-Za-z0-9_-]{1,100}")
"""Names of an instance's metadata, as every registry takes them."""


@dataclass(frozen=True, slots=True)
class ServiceEntry:
    """One service of a mesh file: either `command` or `url` is set.

    `listen` is "unix:PATH" where a plain gRPC server of kind service listens, "" for one that obeys MESH_LISTEN.
    `version` ("": that of agentmesh) and `metadata`, such as its zone, are registered; subsets are chosen by them.
    """

    name: str
    kind: str
    command: tuple[str, ...] = ()
    url: str = ""
    listen: str = ""
    upstreams: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    instances: int = 1
    description: str = ""
    version: str = ""
    metadata: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def declaration(self) -> Declaration:
        """What the control plane is told about the service."""
        return Declaration(self.name, self.kind, self.upstreams)


@dataclass(frozen=True, slots=True)
class MeshFile:
    """A mesh file that was read; `services` are in the order of the file."""

    path: Path
    services: Mapping[str, ServiceEntry]


class _Service(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    kind: Kind
    command: list[str] = []
    url: str = ""
    listen: str = ""
    upstreams: list[str] = []
    env: dict[str, str] = {}
    instances: int = Field(default=1, ge=0, le=100)
    description: str = ""
    version: str = Field(default="", max_length=128)
    metadata: dict[str, str] = {}


class _Document(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    services: dict[str, _Service]


@dataclass(frozen=True, slots=True)
class _Fault:
    where: YamlPath
    reason: str
    line: int = 0


def load_mesh_file(path: Path, *, known: Collection[str] = ()) -> MeshFile:
    """Read and check a mesh file.

    `known` are services that run beside those of the file and may be upstreams too. Raises InvalidInput that tells
    file, line, field and reason of every fault, up to 10 of them.
    """
    text = parse_yaml(_read(path))
    faults = [_Fault(flaw.path, flaw.reason, flaw.line) for flaw in text.flaws]
    document: _Document | None = None
    if not faults:
        try:
            document = _Document.model_validate(text.value)
        except ValidationError as err:
            faults = [_fault_of(error) for error in err.errors(include_url=False, include_input=False)]
        else:
            faults = list(_check(document, known))
    if faults or document is None:
        raise _invalid(path, text, faults)
    return MeshFile(
        path, MappingProxyType({name: _entry(name, service) for name, service in document.services.items()})
    )


def _entry(name: str, service: _Service) -> ServiceEntry:
    return ServiceEntry(
        name=name,
        kind=service.kind,
        command=resolve_command(service.command),
        url=service.url,
        listen=service.listen,
        upstreams=tuple(sorted(set(service.upstreams))),
        env=MappingProxyType(dict(service.env)),
        instances=service.instances,
        description=service.description,
        version=service.version,
        metadata=MappingProxyType(dict(service.metadata)),
    )


def resolve_command(command: Sequence[str]) -> tuple[str, ...]:
    """Replace a first word "python" by the interpreter that runs this program.

    A mesh file must work whatever `python` in PATH is: the services need the packages that meshctl itself has.
    """
    words = tuple(command)
    return (sys.executable, *words[1:]) if words[:1] == ("python",) else words


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as err:
        raise InvalidInput(
            f"{path} cannot be read: {err.strerror or err}.", field="mesh file", fix="Give the path of a mesh file."
        ) from err
    except UnicodeDecodeError as err:
        raise InvalidInput(f"{path} is not text in UTF-8.", field="mesh file", fix="Save it as UTF-8.") from err


def _check(document: _Document, known: Collection[str]) -> Iterator[_Fault]:
    names = {*document.services, *known}
    for name, service in document.services.items():
        at: YamlPath = ("services", name)
        try:
            check_service_name(name)
        except InvalidInput as err:
            yield _Fault(at, f"{err.summary} {err.fix}")
        yield from _check_command(at, service)
        yield from _check_listen(at, service)
        for number, upstream in enumerate(service.upstreams):
            if upstream != "*" and upstream not in names:
                yield _Fault((*at, "upstreams", number), f"there is no service {upstream!r}{nearest(upstream, names)}")
        for key, value in service.env.items():
            if not key or "=" in key or "\0" in key + value:
                yield _Fault((*at, "env", key), "this cannot be an environment variable")
        for key in service.metadata:
            if METADATA_KEY.fullmatch(key) is None:
                yield _Fault((*at, "metadata", key), "use letters, digits, dashes and underscores, at most 100")


def _check_command(at: YamlPath, service: _Service) -> Iterator[_Fault]:
    if bool(service.command) == bool(service.url):
        yield _Fault(at, 'give either "command" or "url"')
    if service.command and (not service.command[0] or any("\0" in word for word in service.command)):
        yield _Fault((*at, "command"), "the first word is the program; no word may hold a NUL")
    if service.url and service.kind == "service":
        yield _Fault((*at, "url"), 'only a service of kind "mcp" or "agent" has one')
    if service.url and not _is_http(service.url):
        yield _Fault((*at, "url"), f"{service.url!r} is not a URL; write http://HOST:PORT/PATH or https://...")


def _check_listen(at: YamlPath, service: _Service) -> Iterator[_Fault]:
    if not service.listen:
        return
    if service.kind != "service":
        yield _Fault((*at, "listen"), 'only a service of kind "service" has one')
    if not service.listen.startswith("unix:/"):
        yield _Fault((*at, "listen"), "write unix:/PATH, an absolute path of a unix socket")
    if service.instances > 1:
        yield _Fault(
            (*at, "instances"), 'several instances cannot share one "listen"; leave it out and obey MESH_LISTEN'
        )


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False


def _fault_of(error: Mapping[str, Any]) -> _Fault:
    where: YamlPath = tuple(error["loc"])
    return _Fault(where, reason_of(error, (_Document if len(where) == 1 else _Service).model_fields))


def _invalid(path: Path, text: YamlText, faults: Sequence[_Fault]) -> InvalidInput:
    def line_of(fault: _Fault) -> int:
        return fault.line or text.line(fault.where)

    if len(faults) == 1:
        name, summary = field_text(faults[0].where), f"{path}, line {line_of(faults[0])}: {faults[0].reason}"
    else:
        shown = faults[:_MAX_FAULTS]
        lines = [f"{path}, line {line_of(it)}: {field_text(it.where)}: {it.reason}" for it in shown]
        if len(faults) > len(shown):
            lines.append(f"and {len(faults) - len(shown)} more")
        name, summary = "", "\n".join(lines)
    end = "" if summary.endswith((".", "?")) else "."
    return InvalidInput(summary + end, reason="MESH_FILE_INVALID", field=name)
