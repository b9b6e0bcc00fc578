"""Who has sent a request to a web door: what the guard has written into it, on the own socket."""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from starlette.requests import HTTPConnection

from mesh.access import ANONYMOUS, Principal

_KINDS = ("user", "key", "token", "service")


@dataclass(frozen=True, slots=True)
class Caller:
    """The principal, the token that says so to services, and what identifies the request.

    `trace` is the header traceparent of W3C Trace Context, "" without one.
    """

    principal: Principal
    token: str = ""
    correlation_id: str = ""
    client: str = ""
    trace: str = ""


def caller_of(connection: HTTPConnection) -> Caller:
    """Read the guard's headers. The token is not verified: nobody but the own Envoy reaches this socket."""
    return caller_in(connection.headers)


def caller_in(headers: Mapping[str, str]) -> Caller:
    """The same, of headers by their names in lower case."""
    token = headers.get("x-mesh-user", "")
    return Caller(
        principal=principal_of(token),
        token=token,
        correlation_id=headers.get("x-correlation-id", ""),
        client=headers.get("x-envoy-external-address", ""),
        trace=headers.get("traceparent", ""),
    )


@lru_cache(maxsize=1024)
def principal_of(token: str) -> Principal:
    """The principal of a user token; ANONYMOUS for none."""
    parts = token.split(".")
    if len(parts) != 3:
        return ANONYMOUS
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, binascii.Error):
        return ANONYMOUS
    kind = claims.get("kind")
    if kind not in _KINDS:
        return ANONYMOUS
    return Principal(
        kind,
        str(claims.get("name", "")),
        issuer=str(claims.get("issuer", "")),
        roles=tuple(claims.get("roles", ())),
        login=str(claims.get("login", "")),
    )
