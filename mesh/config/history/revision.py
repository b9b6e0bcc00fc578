"""Revisions as values, and as the bytes under which they are kept."""

import enum
import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Self

from mesh.errors import FailedPrecondition

_FORM = 1
_LARGEST = 64 << 20


class Status(enum.Enum):
    """How a revision is."""

    STAGED = "staged"
    """A part of the proxies has it."""
    ACTIVE = "active"
    """All proxies have it."""
    SUPERSEDED = "superseded"
    """A later one has taken its place."""
    ROLLED_BACK = "rolled-back"
    """It was undone."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One source of the document as it was: `name` is "defaults", an environment, or "operator"; `source` a path."""

    name: str
    source: str
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Origin:
    """A place in a layer; `line` is from 1, 0 for none."""

    source: str
    line: int
    field: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What one proxy said about resources; `origin` is the change that caused it, as far as it can be told."""

    node_id: str
    type: str
    resources: tuple[str, ...]
    message: str
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """A revision that is to be made. `applied` tells that an author gave the operator's layer, not a hand in its file.

    `restores` is the number of the revision whose content it has again, 0 for none. `seen` holds hashes of what stood
    in the places of the layers, by layer: what is still there when a process starts is no news.
    """

    author: str
    message: str
    layers: tuple[Layer, ...]
    document_version: str
    restores: int = 0
    applied: bool = True
    seen: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Revision:
    """One state of the document in its history; only `cause` and `refusals` are ever added."""

    number: int
    create_time: datetime
    draft: Draft
    cause: str = ""
    refusals: tuple[Refusal, ...] = ()

    def to_bytes(self) -> bytes:
        """Compressed JSON."""
        content = {"form": _FORM, **asdict(self), "create_time": self.create_time.isoformat()}
        return zlib.compress(json.dumps(content, ensure_ascii=False).encode())

    @classmethod
    def from_bytes(cls, data: bytes, *, place: str) -> Self:
        """Read what `to_bytes` wrote; raises FailedPrecondition that names `place` for anything else."""
        try:
            unpacked = zlib.decompressobj().decompress(data, _LARGEST)
            return cls._parse(json.loads(unpacked))
        except (zlib.error, ValueError, KeyError, TypeError, AttributeError) as err:
            raise FailedPrecondition(
                f"{place} is no revision of a mesh document: {err}.",
                reason="HISTORY_CORRUPT",
                fix="Restore it from a copy, or move the history away to begin a new one.",
            ) from err

    @classmethod
    def _parse(cls, content: Mapping[str, Any]) -> Self:
        if content["form"] != _FORM:
            raise ValueError(f"its form is {content['form']!r}, this program reads {_FORM}")
        draft = content["draft"]
        return cls(
            number=int(content["number"]),
            create_time=datetime.fromisoformat(content["create_time"]),
            draft=Draft(**{**draft, "layers": tuple(Layer(**layer) for layer in draft["layers"])}),
            cause=str(content["cause"]),
            refusals=tuple(_refusal(each) for each in content["refusals"]),
        )


def _refusal(content: Mapping[str, Any]) -> Refusal:
    origin = content["origin"]
    return Refusal(
        **{
            **content,
            "resources": tuple(content["resources"]),
            "origin": Origin(**origin) if origin is not None else None,
        }
    )


@dataclass(frozen=True, slots=True)
class Head:
    """Which revisions count: the one commit point of a history.

    `newest` is the highest number that was given, `active` what all proxies get, `staged` what a part of them gets
    first (0: none), `good` the newest one that has passed its probation. `operator` and `before` are hashes of the
    operator's layer as it is to be and as it was found at the last change.
    """

    newest: int = 0
    active: int = 0
    staged: int = 0
    good: int = 0
    operator: str = ""
    before: str = ""
    claim: str = ""
    """Who is about to write the next revision."""

    def to_bytes(self) -> bytes:
        """JSON, so that a person can read it."""
        return (json.dumps({"form": _FORM, **asdict(self)}) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, *, place: str) -> Self:
        """Read what `to_bytes` wrote; raises FailedPrecondition that names `place` for anything else."""
        try:
            content = json.loads(data)
            if content.pop("form") != _FORM:
                raise ValueError("it has another form")
            head = cls(**content)
            if not all(isinstance(n, int) for n in (head.newest, head.active, head.staged, head.good)):
                raise ValueError("its numbers are none")
        except (ValueError, KeyError, TypeError, AttributeError) as err:
            raise FailedPrecondition(
                f"{place} does not tell which revision is in force: {err}.",
                reason="HISTORY_CORRUPT",
                fix="Restore it from a copy, or move the history away to begin a new one.",
            ) from err
        return head

    def status_of(self, revision: Revision) -> Status:
        """How a revision is; what is newer than the active one and not staged was undone."""
        if revision.number == self.active:
            return Status.ACTIVE
        if revision.number == self.staged:
            return Status.STAGED
        if revision.cause or revision.number > self.active:
            return Status.ROLLED_BACK
        return Status.SUPERSEDED
