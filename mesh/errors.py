"""The errors of the mesh.

Every error says what was wrong (`summary`), where (`field`, `service`) and what to do next (`fix`). `mesh.rpc` maps
each class to one gRPC status code; no other place decides on codes.

    MeshError
    ├── InvalidInput          the caller must change the input
    │   └── DocumentInvalid   a mesh document, with all of its faults
    ├── NotFound              there is no such thing
    ├── AlreadyExists         there is such a thing already
    ├── FailedPrecondition    not in this state
    ├── OutOfRange            past the end
    ├── Unauthenticated       who are you
    ├── PermissionDenied      you may not
    ├── ResourceExhausted     full; may pass            (retryable)
    ├── Unavailable           not there; may pass       (retryable)
    ├── DeadlineExceeded      took too long
    ├── Canceled              somebody gave up
    ├── Unimplemented         this mesh cannot do that
    └── Internal              a defect of ours
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

__all__ = [
    "AlreadyExists",
    "Canceled",
    "DeadlineExceeded",
    "DocumentInvalid",
    "FailedPrecondition",
    "Fault",
    "Internal",
    "InvalidInput",
    "MeshError",
    "NotFound",
    "OutOfRange",
    "PermissionDenied",
    "ResourceExhausted",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
]


class MeshError(Exception):
    """An error with a message for a person and fields for a program.

    `summary` is one sentence on what was wrong. `reason` is a stable UPPER_SNAKE_CASE word; the class has a default.
    `field` is the dotted path of the input at fault, `service` the mesh service that raised it, `fix` one sentence on
    what to do next. `retryable` tells whether the same call may succeed when repeated unchanged.
    """

    default_reason: ClassVar[str] = "INTERNAL"
    default_retryable: ClassVar[bool] = False

    def __init__(
        self,
        summary: str,
        *,
        reason: str = "",
        field: str = "",
        fix: str = "",
        service: str = "",
        retryable: bool | None = None,
    ) -> None:
        super().__init__(summary)
        self.summary = summary
        self.reason = reason or self.default_reason
        self.field = field
        self.fix = fix
        self.service = service
        self.retryable = self.default_retryable if retryable is None else retryable

    def __str__(self) -> str:
        where = f"{self.field}: " if self.field else ""
        fix = f" {self.fix}" if self.fix else ""
        return f"{where}{self.summary}{fix}"


class InvalidInput(MeshError):
    """The caller must change the input; `field` names it."""

    default_reason = "INVALID_INPUT"


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One thing that is wrong with a mesh document.

    `source` is where the text comes from, such as a file name; `line` counts from 1, 0 where there is none; `field` is
    the path of the value, "" for the text as a whole; `reason` says what is wrong and what to write instead.
    """

    source: str
    line: int
    field: str
    reason: str

    def __str__(self) -> str:
        where = f"{self.source}, line {self.line}" if self.line else self.source
        return ": ".join(part for part in (where, self.field, self.reason) if part)


class DocumentInvalid(InvalidInput):
    """A mesh document is not valid; `faults` has at least one, sorted by place. The summary tells up to 10 of them."""

    default_reason = "DOCUMENT_INVALID"
    _MOST_SHOWN: ClassVar[int] = 10

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(sorted(set(faults)))
        shown = [str(fault) for fault in self.faults[: self._MOST_SHOWN]]
        if len(self.faults) == 1:
            shown = [str(replace(self.faults[0], field=""))]
        if len(self.faults) > len(shown):
            shown.append(f"and {len(self.faults) - len(shown)} more")
        text = "\n".join(shown)
        super().__init__(
            text if text.endswith((".", "?")) else f"{text}.",
            field=self.faults[0].field if len(self.faults) == 1 else "",
        )


class NotFound(MeshError):
    """There is no such thing."""

    default_reason = "NOT_FOUND"


class AlreadyExists(MeshError):
    """There is such a thing already."""

    default_reason = "ALREADY_EXISTS"


class FailedPrecondition(MeshError):
    """The thing is not in a state in which this can be done."""

    default_reason = "FAILED_PRECONDITION"


class OutOfRange(MeshError):
    """The position is past the end."""

    default_reason = "OUT_OF_RANGE"


class Unauthenticated(MeshError):
    """The caller has not shown who it is."""

    default_reason = "UNAUTHENTICATED"


class PermissionDenied(MeshError):
    """The caller is known and may not do this."""

    default_reason = "PERMISSION_DENIED"


class ResourceExhausted(MeshError):
    """There is no room for the call at the moment."""

    default_reason = "RESOURCE_EXHAUSTED"
    default_retryable = True


class Unavailable(MeshError):
    """The other side is not there at the moment."""

    default_reason = "UNAVAILABLE"
    default_retryable = True


class DeadlineExceeded(MeshError):
    """The call took longer than it may."""

    default_reason = "DEADLINE_EXCEEDED"


class Canceled(MeshError):
    """Somebody gave the work up."""

    default_reason = "CANCELED"


class Unimplemented(MeshError):
    """This mesh, or this service, cannot do that."""

    default_reason = "UNIMPLEMENTED"


class Internal(MeshError):
    """A defect on our side."""

    default_reason = "INTERNAL"
