"""What is to be known to route the calls to one service."""

from dataclasses import dataclass
from typing import Any

from mesh.config.document import Service
from mesh.errors import FailedPrecondition
from mesh.xds.resources.values import fraction

CLIENT_TRACE_ID = "x-client-trace-id"
"""The header by which a sidecar tells its own Envoy that the caller has decided about a trace."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where requests may go: a target of the document, its cluster, and what its load balancing hashes on."""

    target: str
    cluster: str
    hash_on: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Host:
    """A service with all that its routes need, as one hashable value.

    `places` has every target that the policy names, and the service itself. `secrets` are the values of the references
    in its headers. `caller` is set only where the routes depend on who calls. `sampling_percent` is None where nothing
    is traced.
    """

    service: str
    policy: Service
    places: tuple[Place, ...]
    secrets: tuple[tuple[str, str], ...] = ()
    caller: str = ""
    sampling_percent: float | None = None

    def place(self, target: str) -> Place:
        """The place of a target."""
        return next(place for place in self.places if place.target == target)

    def secret(self, reference: str) -> str:
        """The value of a secret; raises FailedPrecondition when there is none."""
        for known, value in self.secrets:
            if known == reference:
                return value
        raise FailedPrecondition(
            f"The secret {reference} in a header of {self.service} has no value.",
            reason="SECRET_MISSING",
            field=f"services.{self.service}.routes",
            fix="Set it where the control plane runs, or take the reference out.",
        )


def tracing_of(sampling_percent: float | None, removed: tuple[str, ...] = ()) -> dict[str, Any]:
    """The share of requests that a Route traces, None where there is no tracing, and the headers that it takes off.

    It is said in routes, so that a change of it drops no connection.
    """
    literal: dict[str, Any] = {}
    if sampling_percent is not None:
        literal["tracing"] = {"random_sampling": fraction(sampling_percent)}
        removed = (CLIENT_TRACE_ID, *removed)
    return literal | ({"request_headers_to_remove": list(removed)} if removed else {})
