"""Who calls: read out of what Envoy has verified and of what the client has shown."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mesh.access import ANONYMOUS, Principal
from mesh.access.api_keys import ApiKeyText
from mesh.access.principal import PrincipalKind
from mesh.errors import Unauthenticated
from services.gateway.guard.view import AccessView

_BEARER = "bearer "
_NOT_OF_THIS_ISSUER = 24
"""What jwt_authn says to a token of another issuer: with several issuers all but one say so."""
_EXPIRED = 3

_TOKEN_PATHS = ("/oauth2/token", "/oauth2/revoke")

_FIX = "Get a token with `meshctl login` or at /oauth2/token, or send an API key in x-api-key."


def read_principal(
    view: AccessView,
    headers: Mapping[str, str],
    tokens: Mapping[str, Any],
    peer: str,
    *,
    clock: Callable[[], float] = time.time,
) -> Principal:
    """Who calls. Raises Unauthenticated when a credential is shown and does not hold.

    `tokens` is what Envoy's jwt_authn says: by provider what a token holds, by failed.PROVIDER what is wrong with it.
    `peer` is the SPIFFE id of a certificate of the mesh, "" without one.
    """
    bearer = "" if is_basic_for_tokens(headers) else headers.get("authorization", "")
    text = headers.get("x-api-key", "")
    found: list[Principal] = []
    if text:
        found.append(_of_key(view, text, clock()))
    payloads = {name: payload for name, payload in tokens.items() if not name.startswith("failed.")}
    if payloads:
        found += [_of_token(view, name.removesuffix(".query"), payload) for name, payload in payloads.items()]
    elif bearer or tokens:
        key = ApiKeyText.parse(bearer[len(_BEARER) :].strip()) if bearer.lower().startswith(_BEARER) else None
        if key is None:
            raise _bad_token(tokens)
        found.append(_of_key(view, key.text, clock()))
    if len(found) > 1:
        raise Unauthenticated("Several credentials are shown.", reason="SEVERAL_CREDENTIALS", fix="Send one only.")
    if found:
        return found[0]
    return Principal("service", peer) if peer else ANONYMOUS


def is_basic_for_tokens(headers: Mapping[str, str]) -> bool:
    """Whether the header authorization is that of an OAuth client at the token endpoint: for the endpoint to check."""
    return headers.get(":path", "") in _TOKEN_PATHS and headers.get("authorization", "").lower().startswith("basic ")


def _of_key(view: AccessView, text: str, now: float) -> Principal:
    key = ApiKeyText.parse(text)
    known = view.keys.get(key.id) if key is not None else None
    if key is None or known is None or not key.fits(known.secret_sha256):
        raise _refused("The API key is not known.", "KEY_UNKNOWN")
    return _check_key(view, key.id, now)


def _check_key(view: AccessView, identifier: str, now: float) -> Principal:
    known = view.keys.get(identifier)
    if known is None:
        raise _refused("The API key is not known.", "KEY_UNKNOWN")
    if known.revoked:
        raise _refused(f"The API key {identifier} was revoked.", "KEY_REVOKED")
    if known.HasField("expire_time") and now >= known.expire_time.seconds:
        raise _refused(f"The API key {identifier} has ended.", "KEY_EXPIRED")
    return Principal("key", identifier, roles=tuple(known.roles))


def _of_token(view: AccessView, provider: str, payload: Any) -> Principal:
    claims = to_plain(payload)
    subject = str(claims.get("sub") or "")
    if not subject:
        raise _refused("The token says not for whom it is.", "TOKEN_WITHOUT_SUBJECT")
    if provider != "own":
        return Principal("token", subject, issuer=provider.removeprefix("issuer."), claims=claims)
    kind: PrincipalKind = "key" if claims.get("kind") == "key" else "user"
    shown = Principal(kind, subject, claims=claims, login=str(claims.get("sid") or ""))
    return renew_principal(view, shown, clock=time.time)


def renew_principal(view: AccessView, principal: Principal, *, clock: Callable[[], float] = time.time) -> Principal:
    """Who has shown a credential before, with the roles that it has now; raises Unauthenticated when it counts no more.

    Roles that bindings give are left out, whether of now or of before.
    """
    if principal.login and principal.login in view.ended_logins:
        raise _refused("The login that the token came from was ended.", "LOGIN_ENDED")
    if principal.kind == "key":
        return replace(principal, roles=_check_key(view, principal.name, clock()).roles)
    if principal.kind == "user":
        user = view.users.get(principal.name)
        if user is None or user.disabled:
            raise _refused(f"The user {principal.name} may not log in.", "USER_DISABLED")
        return replace(principal, roles=tuple(user.roles))
    return replace(principal, roles=())


def _bad_token(tokens: Mapping[str, Any]) -> Unauthenticated:
    failures = [to_plain(failure) for name, failure in tokens.items() if name.startswith("failed.")]
    known = [failure for failure in failures if failure.get("code") != _NOT_OF_THIS_ISSUER] or failures
    if not known:
        return _refused("The header authorization holds no token and no API key.", "CREDENTIAL_UNREADABLE")
    if known[0].get("code") == _EXPIRED:
        return _refused("The token has ended.", "TOKEN_EXPIRED")
    words = str(known[0].get("message") or "it cannot be verified").removeprefix("Jwt ").rstrip(".")
    return _refused(f"The token does not hold: {words}.", "TOKEN_INVALID")


def _refused(summary: str, reason: str) -> Unauthenticated:
    return Unauthenticated(summary, reason=reason, fix=_FIX)


def to_plain(value: Any) -> Any:
    """A google.protobuf.Value or Struct as plain values."""
    if hasattr(value, "WhichOneof"):
        kind = value.WhichOneof("kind") if "kind" in value.DESCRIPTOR.oneofs_by_name else None
        if kind == "struct_value":
            return to_plain(value.struct_value)
        if kind == "list_value":
            return [to_plain(item) for item in value.list_value.values]
        if kind is not None:
            return None if kind == "null_value" else getattr(value, kind)
        if "fields" in value.DESCRIPTOR.fields_by_name:
            return {name: to_plain(item) for name, item in value.fields.items()}
        return None
    return value
