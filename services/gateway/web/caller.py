"""Who has sent a request to a web door: what the guard has written into it, on the own socket."""

import base64
import binascii
import json
from dataclasses import dataclass

from starlette.requests import HTTPConnection

from mesh.access import ANONYMOUS, Principal

_KINDS = ("user", "key", "token", "service")


@dataclass(frozen=True, slots=True)
class Caller:
    """The principal, the token that says so to services, and what identifies the request."""

    principal: Principal
    token: str = ""
    correlation_id: str = ""
    client: str = ""


def caller_of(connection: HTTPConnection) -> Caller:
    """Read the guard's headers. The token is not verified: nobody but the own Envoy reaches this socket."""
    headers = connection.headers
    token = headers.get("x-mesh-user", "")
    return Caller(
        principal=principal_of(token),
        token=token,
        correlation_id=headers.get("x-correlation-id", ""),
        client=headers.get("x-envoy-external-address", ""),
    )


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
