"""The routes. The control plane decides; here is only its HTTP form."""

import base64
import binascii
from typing import Any
from urllib.parse import parse_qsl, unquote

import grpc
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from agentmesh.gateway.v1 import gateway_service_pb2 as pb
from mesh.errors import InvalidInput, MeshError, ResourceExhausted, Unauthenticated
from mesh.rpc import error_from_rpc
from services.gateway.knowledge import Knowledge
from services.gateway.web.bodies import read_body, read_json
from services.gateway.web.caller import caller_of

_TIMEOUT = 10.0
_LONGEST = 16 << 10
_NO_STORE = {"cache-control": "no-store", "pragma": "no-cache"}


def token_routes(knowledge: Knowledge, stub: Any) -> list[BaseRoute]:
    """All routes about tokens; `stub` is that of GatewayService."""
    doors = _Doors(knowledge, stub)
    return [
        Route("/oauth2/token", doors.token, methods=["POST"]),
        Route("/oauth2/revoke", doors.revoke, methods=["POST"]),
        Route("/v1/auth/login", doors.login, methods=["POST"]),
        Route("/v1/auth/whoami", doors.whoami),
        Route("/.well-known/jwks.json", doors.jwks),
        Route("/.well-known/oauth-authorization-server", doors.metadata),
    ]


class _Doors:
    def __init__(self, knowledge: Knowledge, stub: Any) -> None:
        self._knowledge = knowledge
        self._stub = stub

    async def token(self, request: Request) -> Response:
        try:
            form = await _form(request)
            asked = self._grant(request, form)
        except _OAuthError as err:
            return err.response()
        asked.client_address = caller_of(request).client
        try:
            issued = await self._call(self._stub.IssueToken, asked)
        except Unauthenticated as err:
            is_client = form.get("grant_type") == "client_credentials"
            code, status = ("invalid_client", 401) if is_client else ("invalid_grant", 400)
            return _OAuthError(code, err.summary, status=status).response()
        except ResourceExhausted as err:
            return _OAuthError("slow_down", f"{err.summary} {err.fix}", status=429).response()
        return JSONResponse(_tokens(issued), headers=_NO_STORE)

    async def revoke(self, request: Request) -> Response:
        try:
            form = await _form(request)
        except _OAuthError as err:
            return err.response()
        if not form.get("token"):
            return _OAuthError("invalid_request", "There is no token.").response()
        await self._call(self._stub.RevokeToken, pb.RevokeTokenRequest(refresh_token=form["token"]))
        return JSONResponse({}, headers=_NO_STORE)

    async def login(self, request: Request) -> Response:
        facts = read_json(await read_body(request, _LONGEST))
        user, password = facts.get("user"), facts.get("password")
        if not isinstance(user, str) or not isinstance(password, str):
            raise InvalidInput(
                "User and password are needed.", field="user", fix='Send {"user": "...", "password": "..."}.'
            )
        grant = pb.PasswordGrant(user=user[:256], password=password[:4096])
        asked = pb.IssueTokenRequest(password=grant, client_address=caller_of(request).client)
        issued = await self._call(self._stub.IssueToken, asked)
        return JSONResponse(_tokens(issued), headers=_NO_STORE)

    async def whoami(self, request: Request) -> Response:
        principal = caller_of(request).principal
        view = self._knowledge.view
        roles = list(view.rules.roles_of(principal)) if view is not None else []
        facts = {"principal": str(principal), "kind": principal.kind, "name": principal.name, "roles": roles}
        return JSONResponse(facts, headers=_NO_STORE)

    async def jwks(self, request: Request) -> Response:
        return Response(self._knowledge.access.jwks, media_type="application/jwk-set+json")

    async def metadata(self, request: Request) -> Response:
        base = f"{request.headers.get('x-forwarded-proto', 'https')}://{request.headers.get('host', 'localhost')}"
        return JSONResponse(
            {
                "issuer": self._knowledge.access.issuer,
                "token_endpoint": f"{base}/oauth2/token",
                "revocation_endpoint": f"{base}/oauth2/revoke",
                "jwks_uri": f"{base}/.well-known/jwks.json",
                "grant_types_supported": ["client_credentials", "refresh_token"],
                "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
                "response_types_supported": [],
            }
        )

    def _grant(self, request: Request, form: dict[str, str]) -> pb.IssueTokenRequest:
        match form.get("grant_type"):
            case "client_credentials":
                client, secret = _client(request, form)
                return pb.IssueTokenRequest(client=pb.ClientGrant(client_id=client, client_secret=secret))
            case "refresh_token":
                if not form.get("refresh_token"):
                    raise _OAuthError("invalid_request", "There is no refresh_token.")
                return pb.IssueTokenRequest(refresh_token=form["refresh_token"])
            case None | "":
                raise _OAuthError("invalid_request", "There is no grant_type.")
            case other:
                text = f"{other[:80]!r} is not served; client_credentials and refresh_token are."
                raise _OAuthError("unsupported_grant_type", text)

    async def _call(self, method: Any, asked: Any) -> Any:
        try:
            return await method(asked, timeout=_TIMEOUT)
        except grpc.aio.AioRpcError as err:
            raise error_from_rpc(err) from err


class _OAuthError(Exception):
    """An error in the form of RFC 6749, section 5.2."""

    def __init__(self, code: str, description: str, *, status: int = 400) -> None:
        super().__init__(description)
        self._code = code
        self._description = description
        self._status = status

    def response(self) -> Response:
        headers = dict(_NO_STORE)
        if self._status == 401:
            headers["www-authenticate"] = 'Basic realm="agentmesh"'
        content = {"error": self._code, "error_description": self._description.replace('"', "'")}
        return JSONResponse(content, self._status, headers=headers)


def _client(request: Request, form: dict[str, str]) -> tuple[str, str]:
    scheme, _, text = request.headers.get("x-client-authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            name, _, secret = base64.b64decode(text, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError) as err:
            raise _OAuthError("invalid_client", "The header authorization cannot be read.", status=401) from err
        return unquote(name), unquote(secret)
    if not form.get("client_id") or not form.get("client_secret"):
        raise _OAuthError("invalid_client", "There are no client_id and client_secret.", status=401)
    return form["client_id"], form["client_secret"]


async def _form(request: Request) -> dict[str, str]:
    if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        raise _OAuthError("invalid_request", "The body must be application/x-www-form-urlencoded.")
    try:
        pairs = parse_qsl((await read_body(request, _LONGEST)).decode(), keep_blank_values=True, max_num_fields=20)
    except (ValueError, MeshError) as err:
        raise _OAuthError("invalid_request", f"The body cannot be read: {err}.") from err
    if len({name for name, _ in pairs}) != len(pairs):
        raise _OAuthError("invalid_request", "A parameter is there twice.")
    return dict(pairs)


def _tokens(issued: pb.IssueTokenResponse) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "access_token": issued.access_token,
        "token_type": "Bearer",
        "expires_in": issued.expires_in,
    }
    return facts | ({"refresh_token": issued.refresh_token} if issued.refresh_token else {})
