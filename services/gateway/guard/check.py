"""Envoy's external authorization: one question for each call from outside, one answer.

Contract: https://www.envoyproxy.io/docs/envoy/latest/api-v3/service/auth/v3/external_auth.proto
"""

import base64
from typing import Any

import grpc

from mesh.access import GATEWAY, Target
from mesh.access.target_of import read_call
from mesh.errors import InvalidInput, MeshError
from mesh.rpc.status import code_of, error_to_status
from services.gateway.guard.admission import REFUSALS, Admission, Admitted, Request, challenge_of
from services.gateway.guard.credentials import is_basic_for_tokens, to_plain
from services.gateway.guard.messages import AUTHORIZATION, message

METHOD = f"/{AUTHORIZATION}.Authorization/Check"

_TOKENS = "envoy.filters.http.jwt_authn"
_FACTS = "mesh"
_HTTP_STATUS = {
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
}
# The client's own, which no service is to see.
_TAKEN_OFF = ("authorization", "x-api-key", "cookie", "proxy-authorization")
_GRPC_TYPES = ("application/grpc", "application/proto", "application/connect+proto")
_OVERWRITE = 2


class Guard:
    """Answers Envoy's questions by what an admission decides."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._request = message(f"{AUTHORIZATION}.CheckRequest")
        self._response = message(f"{AUTHORIZATION}.CheckResponse")

    @property
    def handler(self) -> grpc.GenericRpcHandler:
        """For the server on the guard's socket."""
        return _OneMethod(METHOD, self._check, self._request.FromString, self._response.SerializeToString)

    async def _check(self, request: Any, context: Any) -> Any:
        return self.answer(request)

    def answer(self, request: Any) -> Any:
        """The CheckResponse to a CheckRequest."""
        http = request.attributes.request.http
        asked = _read(request.attributes)
        # By the metadata of the route that Envoy has chosen, so that what is decided about is what is called.
        service = _service(request.attributes)
        bare = http.path.partition("?")[0]
        try:
            is_partial = asked.headers.get("x-envoy-auth-partial-body") == "true"
            target, inspected = read_call(
                service, bare, http.raw_body, is_grpc=asked.door != "http", is_partial=is_partial
            )
        except InvalidInput as err:
            self._admission.note_refusal(asked, Target(service, bare), err)
            return self._deny(err, asked)
        try:
            return self._allow(self._admission.admit(asked, target, inspected), asked)
        except REFUSALS as err:
            return self._deny(err, asked)

    def _allow(self, admitted: Admitted, asked: Request) -> Any:
        response = self._response()
        ok = response.ok_response
        _overwrite(ok, "x-mesh-user", admitted.token)
        if is_basic_for_tokens(asked.headers):
            _overwrite(ok, "x-client-authorization", asked.headers["authorization"])
        else:
            ok.headers_to_remove.append("x-client-authorization")
        ok.headers_to_remove.extend(_TAKEN_OFF)
        for name, value in admitted.limits:
            added = ok.response_headers_to_add.add()
            added.header.key, added.header.value = name, value
        if admitted.to_ask:
            # Envoy asks for those of which nothing was taken in advance.
            response.dynamic_metadata.update({"limits": admitted.to_ask})
        return response

    def _deny(self, error: MeshError, asked: Request) -> Any:
        response = self._response()
        code = code_of(error)
        response.status.code = code.value[0]
        denied = response.denied_response
        denied.status.code = _HTTP_STATUS.get(code, 403)
        status = error_to_status(error, service=GATEWAY, correlation_id=asked.correlation_id)
        denied.body = status.message
        _add(denied, "x-mesh-reason", error.reason)
        if code is grpc.StatusCode.UNAUTHENTICATED:
            _add(denied, "www-authenticate", challenge_of(error))
        if asked.door == "grpc":
            details = base64.b64encode(status.SerializeToString()).rstrip(b"=").decode()
            _add(denied, "grpc-status-details-bin", details)
        return response


class _OneMethod(grpc.GenericRpcHandler):
    def __init__(self, method: str, behaviour: Any, read: Any, write: Any) -> None:
        self._method = method
        self._handler: Any = grpc.unary_unary_rpc_method_handler(behaviour, read, write)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._handler if handler_call_details.method == self._method else None


def _read(attributes: Any) -> Request:
    http = attributes.request.http
    headers = dict(http.headers)
    filters = attributes.metadata_context.filter_metadata
    peer = attributes.source.principal
    return Request(
        path=headers.get("x-envoy-original-path", http.path),
        headers=headers,
        tokens=dict(filters[_TOKENS].fields) if _TOKENS in filters else {},
        peer=peer if peer.startswith("spiffe://") else "",
        client=_client(attributes, headers),
        correlation_id=headers.get("x-correlation-id", "")[:128],
        door=_door(headers),
    )


def _add(denied: Any, name: str, value: str) -> None:
    header = denied.headers.add()
    header.header.key, header.header.value = name, value


def _overwrite(ok: Any, name: str, value: str) -> None:
    header = ok.headers.add()
    header.header.key, header.header.value = name, value
    header.append_action = _OVERWRITE


def _service(attributes: Any) -> str:
    routes = attributes.route_metadata_context.filter_metadata
    if _FACTS in routes:
        return str(to_plain(routes[_FACTS]).get("service") or GATEWAY)
    return GATEWAY


def _door(headers: dict[str, str]) -> str:
    """In which form a call came. Whatever is not "http" is a call of gRPC by now.

    What counts as gRPC here must be no less than in the routes: servers of gRPC take any type of content.
    """
    if "x-envoy-original-path" in headers:
        return "connect" if "connect-protocol-version" in headers else "rest"
    if "x-grpc-web" in headers and headers.get("content-type", "").startswith("application/grpc"):
        return "grpc-web"
    if headers.get("content-type", "").startswith(_GRPC_TYPES):
        return "connect" if "connect-protocol-version" in headers else "grpc"
    return "http"


def _client(attributes: Any, headers: dict[str, str]) -> str:
    """The client's address, as Envoy trusts it."""
    return headers.get("x-envoy-external-address") or str(attributes.source.address.socket_address.address)
