"""The routes. The control plane decides; here is only its HTTP form."""

import json
from typing import Any, TypeGuard

import grpc
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from agentmesh.gateway.v1 import gateway_service_pb2 as pb
from mesh.errors import InvalidInput, ResourceExhausted, Unauthenticated
from mesh.rpc import error_from_rpc
from services.gateway.knowledge import Knowledge
from services.gateway.web.caller import caller_of
from services.gateway.web.tokens.device import GRANT, DeviceDoors, origin_of
from services.gateway.web.tokens.oauth import (
    NO_STORE,
    OAuthError,
    read_body,
    read_client,
    read_form,
    tokens_to_json,
    too_many,
)

_TIMEOUT = 10.0
_GRANTS = ("client_credentials", "refresh_token", GRANT)
_LONGEST_USER = 256
_LONGEST_PASSWORD = 4096


def token_routes(knowledge: Knowledge, stub: Any) -> list[BaseRoute]:
    """All routes about tokens; `stub` is that of GatewayService."""
    doors = _Doors(knowledge, stub)
    return [
        Route("/oauth2/token", doors.token, methods=["POST"]),
        Route("/oauth2/revoke", doors.revoke, methods=["POST"]),
        *doors.device.routes(),
        Route("/v1/auth/login", doors.login, methods=["POST"]),
        Route("/v1/auth/whoami", doors.whoami),
        Route("/.well-known/jwks.json", doors.jwks),
        Route("/.well-known/oauth-authorization-server", doors.metadata),
    ]


class _Doors:
    def __init__(self, knowledge: Knowledge, stub: Any) -> None:
        self._knowledge = knowledge
        self._stub = stub
        self.device = DeviceDoors(self._log_in, self._revoke)

    async def token(self, request: Request) -> Response:
        try:
            issued = await self._issue(request, await read_form(request))
        except OAuthError as err:
            return err.response()
        except ResourceExhausted as err:
            return too_many(err).response()
        return JSONResponse(tokens_to_json(issued), headers=NO_STORE)

    async def revoke(self, request: Request) -> Response:
        try:
            token = (await read_form(request)).get("token")
            if not token:
                raise OAuthError("invalid_request", "There is no token.")
        except OAuthError as err:
            return err.response()
        await self._revoke(token)
        return JSONResponse({}, headers=NO_STORE)

    async def login(self, request: Request) -> Response:
        facts = _json(await read_body(request))
        user, password = facts.get("user"), facts.get("password")
        if not _is_text(user) or not _is_text(password):
            raise InvalidInput(
                "User and password are needed.", field="user", fix='Send {"user": "...", "password": "..."}.'
            )
        issued = await self._log_in(user, password, caller_of(request).client)
        return JSONResponse(tokens_to_json(issued), headers=NO_STORE)

    async def whoami(self, request: Request) -> Response:
        principal = caller_of(request).principal
        view = self._knowledge.view
        roles = list(view.rules.roles_of(principal)) if view is not None else []
        facts = {"principal": str(principal), "kind": principal.kind, "name": principal.name, "roles": roles}
        return JSONResponse(facts, headers=NO_STORE)

    async def jwks(self, request: Request) -> Response:
        return Response(self._knowledge.access.jwks, media_type="application/jwk-set+json")

    async def metadata(self, request: Request) -> Response:
        base = origin_of(request)
        return JSONResponse(
            {
                "issuer": self._knowledge.access.issuer,
                "token_endpoint": f"{base}/oauth2/token",
                "revocation_endpoint": f"{base}/oauth2/revoke",
                "device_authorization_endpoint": f"{base}/oauth2/device_authorization",
                "jwks_uri": f"{base}/.well-known/jwks.json",
                "grant_types_supported": list(_GRANTS),
                # Keys show themselves; what waits as a device has nothing to show.
                "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "none"],
                "revocation_endpoint_auth_methods_supported": ["none"],
                "response_types_supported": [],
            }
        )

    async def _issue(self, request: Request, form: dict[str, str]) -> pb.IssueTokenResponse:
        """Tokens for what the form shows. Raises OAuthError, or ResourceExhausted after many failures."""
        address = caller_of(request).client
        match form.get("grant_type"):
            case "client_credentials":
                client, secret = read_client(request, form)
                grant = pb.ClientGrant(client_id=client, client_secret=secret)
                asked, code, status = pb.IssueTokenRequest(client=grant), "invalid_client", 401
            case "refresh_token":
                if not form.get("refresh_token"):
                    raise OAuthError("invalid_request", "There is no refresh_token.")
                asked = pb.IssueTokenRequest(refresh_token=form["refresh_token"])
                code, status = "invalid_grant", 400
            case other if other == GRANT:
                return self.device.poll(form)
            case None | "":
                raise OAuthError("invalid_request", "There is no grant_type.")
            case other:
                text = f"{other[:80]} is not served; {', '.join(_GRANTS)} are."
                raise OAuthError("unsupported_grant_type", text)
        asked.client_address = address
        try:
            issued: pb.IssueTokenResponse = await self._call(self._stub.IssueToken, asked)
        except Unauthenticated as err:
            raise OAuthError(code, err.summary, status=status) from err
        return issued

    async def _log_in(self, user: str, password: str, address: str) -> pb.IssueTokenResponse:
        grant = pb.PasswordGrant(user=user[:_LONGEST_USER], password=password[:_LONGEST_PASSWORD])
        asked = pb.IssueTokenRequest(password=grant, client_address=address)
        issued: pb.IssueTokenResponse = await self._call(self._stub.IssueToken, asked)
        return issued

    async def _revoke(self, token: str) -> None:
        await self._call(self._stub.RevokeToken, pb.RevokeTokenRequest(refresh_token=token))

    async def _call(self, method: Any, asked: Any) -> Any:
        try:
            return await method(asked, timeout=_TIMEOUT)
        except grpc.aio.AioRpcError as err:
            raise error_from_rpc(err) from err


def _json(body: bytes) -> dict[str, Any]:
    try:
        facts = json.loads(body)
    except (ValueError, RecursionError) as err:
        raise InvalidInput("The body is no JSON.", field="body", fix="Send a JSON object.") from err
    if not isinstance(facts, dict):
        raise InvalidInput("The body is no JSON object.", field="body", fix="Send a JSON object.")
    return facts


def _is_text(value: object) -> TypeGuard[str]:
    """Whether it is a text that has a form in UTF-8: JSON may hold halves of characters."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False
