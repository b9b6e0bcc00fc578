"""What a handler knows about the call that it serves."""

import re
import time
from contextvars import ContextVar
from dataclasses import dataclass

from mesh.errors import FailedPrecondition, InvalidInput
from mesh.model import SpiffeId

_URI = re.compile(r"(?:^|;)URI=([^;,]+)")


@dataclass(frozen=True, slots=True)
class CallContext:
    """The call at hand. `caller` is who the own sidecar says has called; None without a sidecar.

    `ends_at` is the deadline on time.monotonic's clock, or None.
    """

    method: str
    correlation_id: str
    caller: SpiffeId | None
    ends_at: float | None

    @property
    def deadline(self) -> float | None:
        """Seconds that are left, never negative; None when the call has no deadline."""
        return None if self.ends_at is None else max(0.0, self.ends_at - time.monotonic())


current_call: ContextVar[CallContext | None] = ContextVar("current_call", default=None)


def call_context() -> CallContext:
    """The call at hand; raises FailedPrecondition outside of a handler."""
    context = current_call.get()
    if context is None:
        raise FailedPrecondition("There is no call at hand.", fix="Ask inside of a handler.")
    return context


def parse_caller(forwarded_client_cert: str) -> SpiffeId | None:
    """The SPIFFE id in Envoy's x-forwarded-client-cert header; None when there is none of a mesh.

    The header is written by the own sidecar alone: it drops what a caller sends.
    """
    match = _URI.search(forwarded_client_cert)
    if match is None:
        return None
    try:
        return SpiffeId.parse(match.group(1))
    except InvalidInput:
        return None
