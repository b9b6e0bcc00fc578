"""The routes of the device flow: a device asks for a code, a person logs in with it, the device fetches the tokens."""

import time
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from agentmesh.gateway.v1 import gateway_service_pb2 as pb
from mesh.access.attempts import Attempts
from mesh.errors import MeshError, ResourceExhausted, Unauthenticated
from mesh.telemetry import get_logger
from services.gateway.web.caller import caller_of
from services.gateway.web.problems import http_status_of
from services.gateway.web.tokens.device_codes import DeviceCodes
from services.gateway.web.tokens.device_page import build_end, build_form
from services.gateway.web.tokens.oauth import NO_STORE, OAuthError, read_form, too_many

GRANT = "urn:ietf:params:oauth:grant-type:device_code"
PATH = "/oauth2/device"

_LONGEST_CLIENT = 128
_SAME_SITE = ("same-origin", "none")

_log = get_logger(__name__)


class DeviceDoors:
    """`log_in` gives tokens for a user, a password and an address; `revoke` ends the login of a refresh token."""

    def __init__(
        self,
        log_in: Callable[[str, str, str], Awaitable[pb.IssueTokenResponse]],
        revoke: Callable[[str], Awaitable[None]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log_in = log_in
        self._revoke = revoke
        self._codes = DeviceCodes(clock=clock)
        self._attempts = Attempts(clock=clock)

    def routes(self) -> list[BaseRoute]:
        """The routes but for /oauth2/token, which asks `poll`."""
        return [
            Route("/oauth2/device_authorization", self._begin, methods=["POST"]),
            Route(PATH, self._show, methods=["GET"]),
            Route(PATH, self._grant, methods=["POST"]),
        ]

    def poll(self, form: dict[str, str]) -> pb.IssueTokenResponse:
        """The tokens for a device. Raises OAuthError."""
        if not form.get("device_code") or not form.get("client_id"):
            raise OAuthError("invalid_request", "There are no device_code and client_id.")
        return self._codes.poll(form["device_code"], form["client_id"])

    async def _begin(self, request: Request) -> Response:
        await self._end_what_nobody_fetched()
        try:
            client = (await read_form(request)).get("client_id", "")
            if not 0 < len(client) <= _LONGEST_CLIENT:
                raise OAuthError("invalid_request", f"There is no client_id of at most {_LONGEST_CLIENT} characters.")
            made = self._codes.begin(client, caller_of(request).client)
        except OAuthError as err:
            return err.response()
        except ResourceExhausted as err:
            return too_many(err).response()
        facts = {
            "device_code": made.device_code,
            "user_code": made.user_code,
            # None with the code in it: people would be sent links, and say yes to them (RFC 8628, section 5.4).
            "verification_uri": f"{origin_of(request)}{PATH}",
            "expires_in": made.expires_in,
            "interval": made.interval,
        }
        return JSONResponse(facts, headers=NO_STORE)

    async def _show(self, request: Request) -> Response:
        return build_form()

    async def _grant(self, request: Request) -> Response:
        if not _is_own_form(request):
            return build_form("The form was sent from another site.", status=403)
        try:
            form = await read_form(request)
        except OAuthError as err:
            return build_form(str(err), status=400)
        code, user, password = (form.get(name, "") for name in ("user_code", "user", "password"))
        if not code or not user or not password:
            return build_form("Code, user and password are needed.", status=400, code=code, user=user)
        address = caller_of(request).client
        try:
            self._check_code(code, f"address {address}")
            issued = await self._log_in(user, password, address)
        except OAuthError as err:
            return build_form(str(err), status=400, user=user)
        except Unauthenticated as err:
            return build_form(err.summary, status=403, code=code, user=user)
        except MeshError as err:
            return build_form(f"{err.summary} {err.fix}", status=http_status_of(err), code=code, user=user)
        if not self._codes.grant(code, issued):
            # It has ended, or somebody else was faster, while the password was checked.
            await self._revoke(issued.refresh_token)
            return build_form("The code has ended. Let your device begin again.", status=400, user=user)
        return build_end()

    def _check_code(self, code: str, subject: str) -> None:
        self._attempts.check(subject)
        if not self._codes.waits(code):
            self._attempts.failed(subject)
            raise OAuthError("invalid_grant", "No device waits with this code here. Let it begin again.")
        self._attempts.succeeded(subject)

    async def _end_what_nobody_fetched(self) -> None:
        for token in self._codes.sweep():
            try:
                await self._revoke(token)
            except MeshError as err:
                # Nobody has the token: that it ends by itself in some hours will do.
                _log.warning("unfetched_login_not_ended", error=str(err), reason=err.reason)


def origin_of(request: Request) -> str:
    """Where the client has found the edge, without a path."""
    return f"{request.headers.get('x-forwarded-proto', 'https')}://{request.headers.get('host', 'localhost')}"


def _is_own_form(request: Request) -> bool:
    """Whether a browser has sent the form from this page.

    There are no cookies that another site could make use of; this keeps it from logging a device in as somebody else.
    All browsers send one of the headers; what sends none is no browser, and nobody's tool.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None and site not in _SAME_SITE:
        return False
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host", "")
