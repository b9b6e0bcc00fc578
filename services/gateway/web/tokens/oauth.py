"""How OAuth speaks: forms come in, JSON goes out, and errors have the form of RFC 6749, section 5.2."""

import base64
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from agentmesh.gateway.v1 import gateway_service_pb2 as pb
from mesh.errors import InvalidInput, MeshError, ResourceExhausted

NO_STORE = {"cache-control": "no-store", "pragma": "no-cache"}

_LONGEST_BODY = 16 << 10
_MOST_FIELDS = 20
_RETRY_AFTER = 5
"""Seconds; how long it really takes is said in words."""


class OAuthError(Exception):
    """An error of a client, by its code of RFC 6749, section 5.2, or RFC 8628, section 3.5."""

    def __init__(self, code: str, description: str, *, status: int = 400) -> None:
        super().__init__(description)
        self.code = code
        self._description = description
        self._status = status

    def response(self) -> Response:
        """The answer that tells a client of it."""
        headers = dict(NO_STORE)
        if self._status == 401:
            headers["www-authenticate"] = 'Basic realm="agentmesh"'
        if self._status == 429:
            headers["retry-after"] = str(_RETRY_AFTER)
        # Section 5.2 allows these characters only.
        words = "".join(char if " " <= char <= "~" and char not in '"\\' else "'" for char in self._description)
        return JSONResponse({"error": self.code, "error_description": words}, self._status, headers=headers)


def too_many(error: ResourceExhausted) -> OAuthError:
    """The error of one who has to wait."""
    return OAuthError("temporarily_unavailable", f"{error.summary} {error.fix}", status=429)


async def read_form(request: Request) -> dict[str, str]:
    """The parameters in the body. Raises OAuthError."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/x-www-form-urlencoded":
        raise OAuthError("invalid_request", "The body must be application/x-www-form-urlencoded.")
    try:
        pairs = parse_qsl((await read_body(request)).decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except MeshError as err:
        raise OAuthError("invalid_request", f"{err.summary} {err.fix}") from err
    except ValueError as err:
        raise OAuthError("invalid_request", "The body cannot be read as a form.") from err
    if len({name for name, _ in pairs}) != len(pairs):
        raise OAuthError("invalid_request", "A parameter is there twice.")
    return dict(pairs)


async def read_body(request: Request) -> bytes:
    """The body, which is short. Raises InvalidInput when it is not."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > _LONGEST_BODY:
            raise InvalidInput("The body is too long.", field="body", fix=f"Send at most {_LONGEST_BODY} bytes.")
    return bytes(body)


def read_client(request: Request, form: dict[str, str]) -> tuple[str, str]:
    """Id and secret of a client, from the header or the body (RFC 6749, section 2.3.1). Raises OAuthError."""
    # The guard takes the header authorization off, and hands that of a client on under this name.
    scheme, _, text = request.headers.get("x-client-authorization", "").partition(" ")
    if scheme.lower() == "basic":
        if form.get("client_secret"):
            raise OAuthError("invalid_request", "The client shows its secret in two places.")
        try:
            name, _, secret = base64.b64decode(text, validate=True).decode().partition(":")
        except ValueError as err:
            raise OAuthError("invalid_client", "The header authorization cannot be read.", status=401) from err
        return unquote_plus(name), unquote_plus(secret)
    if not form.get("client_id") or not form.get("client_secret"):
        raise OAuthError("invalid_client", "There are no client_id and client_secret.", status=401)
    return form["client_id"], form["client_secret"]


def tokens_to_json(issued: pb.IssueTokenResponse) -> dict[str, Any]:
    """Tokens as a client reads them (RFC 6749, section 5.1)."""
    facts: dict[str, Any] = {
        "access_token": issued.access_token,
        "token_type": "Bearer",
        "expires_in": issued.expires_in,
    }
    return facts | ({"refresh_token": issued.refresh_token} if issued.refresh_token else {})
