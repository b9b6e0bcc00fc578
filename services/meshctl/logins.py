"""Logins at the edge: begun with a password or on the page for devices, gone on with, and ended."""

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mesh.errors import FailedPrecondition, MeshError, Unauthenticated, Unavailable
from services.meshctl.edge import Edge
from services.meshctl.edge_http import post
from services.meshctl.login_file import Login

_CLIENT = "meshctl"
_DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_SLOWER = 5.0
"""Seconds that RFC 8628, section 3.5, has a client wait longer after each slow_down."""
_DEFAULT_INTERVAL = 5.0


async def log_in(edge: Edge, user: str, password: str) -> Login:
    """Show a password at the edge. Raises Unauthenticated, or Unavailable when the edge does not answer."""
    return _login(edge, user, await post(edge, "/v1/auth/login", json_body={"user": user, "password": password}))


async def log_in_by_device(
    edge: Edge, tell: Callable[[str, str], None], *, pause: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> Login:
    """Wait until somebody has logged in on the edge's page; `tell` is given its URL and the code to fill in.

    Raises Unauthenticated when the code ends before.
    """
    begun = await post(edge, "/oauth2/device_authorization", form={"client_id": _CLIENT})
    with _understood(edge):
        page, user_code, device_code = (str(begun[name]) for name in ("verification_uri", "user_code", "device_code"))
        interval = float(begun.get("interval", _DEFAULT_INTERVAL))
        ends = time.monotonic() + float(begun["expires_in"])
    tell(page, user_code)
    form = {"grant_type": _DEVICE_GRANT, "device_code": device_code, "client_id": _CLIENT}
    while time.monotonic() < ends:
        await pause(interval)
        try:
            answer = await post(edge, "/oauth2/token", form=form)
        except Unavailable:
            # The section asks for a longer wait when a connection fails, too.
            interval += _SLOWER
        except MeshError as err:
            if err.reason not in ("AUTHORIZATION_PENDING", "SLOW_DOWN", "TEMPORARILY_UNAVAILABLE"):
                raise
            interval += 0.0 if err.reason == "AUTHORIZATION_PENDING" else _SLOWER
        else:
            with _understood(edge):
                user = _subject(str(answer["access_token"]))
            return _login(edge, user, answer)
    raise Unauthenticated("Nobody has logged in in time.", reason="EXPIRED_TOKEN", fix="Begin again: `meshctl login`.")


async def go_on(edge: Edge, login: Login) -> Login:
    """Use the refresh token up for new tokens. Raises Unauthenticated when the login has ended."""
    form = {"grant_type": "refresh_token", "refresh_token": login.refresh_token}
    try:
        return _login(edge, login.user, await post(edge, "/oauth2/token", form=form))
    except Unauthenticated as err:
        raise Unauthenticated(
            f"The login of {login.user} has ended.",
            reason="LOGIN_ENDED",
            fix="Log in again with `meshctl login`, or go on without with `meshctl logout`.",
        ) from err


async def log_out(edge: Edge, login: Login) -> None:
    """End the login."""
    await post(edge, "/oauth2/revoke", form={"token": login.refresh_token})


def _login(edge: Edge, user: str, answer: dict[str, Any]) -> Login:
    with _understood(edge):
        ends = time.time() + float(answer["expires_in"])
        return Login(user, str(answer["access_token"]), str(answer.get("refresh_token", "")), ends)


@contextmanager
def _understood(edge: Edge) -> Iterator[None]:
    """Around what reads an answer: whatever is at a URL may have answered."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError) as err:
        raise FailedPrecondition(
            f"What answers at {edge.url} is no edge.", reason="NO_EDGE", field="url", fix="Check the URL."
        ) from err


def _subject(token: str) -> str:
    """For whom a token is; not verified, for it is the edge that must believe it."""
    payload = token.split(".")[1]
    return str(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["sub"])
