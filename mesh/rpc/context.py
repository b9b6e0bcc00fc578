"""What a handler knows about the call that it serves."""

import re
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache

from mesh.errors import FailedPrecondition, InvalidInput
from mesh.model import SpiffeId

# A quoted value (Subject, Cert, Chain) may hold separators, and even a text that looks like a URI of another caller.
_PAIR = re.compile(r'([A-Za-z]+)=("(?:[^"\\]|\\.)*"|[^";,]*)([;,]|$)')


USER_TOKEN = "x-mesh-user"  # noqa: S105 - a header's name
"""The header with the token that tells on whose behalf a call is made."""

TOKEN_FACTS = "x-mesh-tokens"  # noqa: S105 - a header's name
"""The header in which the edge tells a door of the gateway what it has found out about JSON Web Tokens, as JSON."""

PEER = "x-mesh-peer"
"""The header in which the edge tells a door of the gateway the SPIFFE id of a client with a certificate of the mesh."""


@dataclass(frozen=True, slots=True)
class CallContext:
    """The call at hand. `caller` is who has called, as the own sidecar or the TLS handshake says; None without either.

    `ends_at` is the deadline on time.monotonic's clock, or None. `user_token` tells on whose behalf the call is made,
    as a gateway has signed it, "" when on nobody's: mesh.identity.user_token verifies it.
    """

    method: str
    correlation_id: str
    caller: SpiffeId | None
    ends_at: float | None
    user_token: str = field(default="", repr=False)

    @property
    def deadline(self) -> float | None:
        """Seconds that are left, never negative; None when the call has no deadline."""
        return None if self.ends_at is None else max(0.0, self.ends_at - time.monotonic())


current_user: ContextVar[str] = ContextVar("current_user", default="")
"""The user token of work that goes on after the call that began it."""

current_call: ContextVar[CallContext | None] = ContextVar("current_call", default=None)


def call_context() -> CallContext:
    """The call at hand; raises FailedPrecondition outside of a handler."""
    context = current_call.get()
    if context is None:
        raise FailedPrecondition("There is no call at hand.", fix="Ask inside of a handler.")
    return context


@lru_cache(maxsize=256)
def parse_caller(forwarded_client_cert: str) -> SpiffeId | None:
    """The SPIFFE id in Envoy's x-forwarded-client-cert header; None when there is none of a mesh.

    The last element of the header is that of the nearest proxy, the own sidecar. Cached: it is the same text for all
    calls of one peer. The form: https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/headers#x-forwarded-client-cert
    """
    uris: list[str] = []
    position = 0
    while position < len(forwarded_client_cert):
        pair = _PAIR.match(forwarded_client_cert, position)
        if pair is None:
            return None
        key, value, end = pair.groups()
        if key == "URI":
            uris.append(value.strip('"'))
        if end == "," and pair.end() < len(forwarded_client_cert):
            uris.clear()
        position = pair.end()
    return parse_spiffe_ids(uris)


def parse_spiffe_ids(uris: list[str]) -> SpiffeId | None:
    """The one SPIFFE id; None when there is none, or several: a certificate of a mesh has exactly one."""
    if len(uris) != 1:
        return None
    try:
        return SpiffeId.parse(uris[0])
    except InvalidInput:
        return None
