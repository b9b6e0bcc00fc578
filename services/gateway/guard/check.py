"""Envoy's external authorization: one question for each call from outside, one answer.

Contract: https://www.envoyproxy.io/docs/envoy/latest/api-v3/service/auth/v3/external_auth.proto
"""

import base64
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import grpc

from mesh.access import GATEWAY, Decision, Principal, Target, decide
from mesh.access.decision import leads_on
from mesh.access.target_of import read_call
from mesh.config.document.edge import Limit
from mesh.errors import InvalidInput, MeshError, PermissionDenied, Unauthenticated, Unavailable
from mesh.rpc.status import code_of, error_to_status
from services.gateway.guard.credentials import is_basic_for_tokens, read_principal, to_plain
from services.gateway.guard.limits import limits_of
from services.gateway.guard.messages import AUTHORIZATION, message
from services.gateway.guard.notes import Noted
from services.gateway.guard.view import AccessView

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


class Signs(Protocol):
    """Makes the token that tells services on whose behalf a call is made."""

    def sign(self, key: object, claims: dict[str, Any]) -> str:
        """A token with these claims, made anew from time to time for each key."""


class Guard:
    """Answers Envoy's questions by the newest view."""

    def __init__(
        self,
        view: Callable[[], AccessView | None],
        signer: Signs,
        note: Callable[[Noted], None],
        take_leased: Callable[[str, Limit, tuple[str, ...]], tuple[str, str] | None] = lambda *_: None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._view = view
        self._signer = signer
        self._note = note
        self._take_leased = take_leased
        self._clock = clock
        self._request = message(f"{AUTHORIZATION}.CheckRequest")
        self._response = message(f"{AUTHORIZATION}.CheckResponse")

    @property
    def handler(self) -> grpc.GenericRpcHandler:
        """For the server on the guard's socket."""
        return _OneMethod(METHOD, self._check, self._request.FromString, self._response.SerializeToString)

    async def _check(self, request: Any, context: Any) -> Any:
        return self.answer(request)

    def sign(self, principal: Principal) -> str:
        """The token that tells services, and the gateway's own doors, on whose behalf a call is made.

        It has all roles of the principal: the claims that some of them come from stay here.
        """
        return self._signer.sign(principal, claims_of(principal))

    def answer(self, request: Any) -> Any:
        """The CheckResponse to a CheckRequest."""
        attributes = request.attributes
        http = attributes.request.http
        headers = dict(http.headers)
        correlation_id = headers.get("x-correlation-id", "")[:128]
        door = _door(headers)
        # By the metadata of the route that Envoy has chosen, so that what is decided about is what is called.
        service = _service(attributes)
        bare = http.path.partition("?")[0]
        is_grpc = door != "http"
        target = Target(service, bare)
        principal: Principal | None = None
        error: MeshError
        try:
            is_partial = headers.get("x-envoy-auth-partial-body") == "true"
            target, inspected = read_call(service, bare, http.raw_body, is_grpc=is_grpc, is_partial=is_partial)
            view = self._view()
            if view is None:
                raise Unavailable("The gateway does not know yet who may call what.", reason="GATEWAY_STARTING")
            finding = view.firewall.inspect(headers.get("x-envoy-original-path", http.path), headers, inspected)
            if finding is not None:
                self._note_finding(finding.rule, finding.blocks, target, door, attributes, correlation_id)
                if finding.blocks:
                    raise PermissionDenied(
                        f"The request fits the firewall rule {finding.rule}.",
                        reason="FIREWALL",
                        field=finding.where,
                        fix="Send it without what looks like an attack, or ask the operator to change the rule.",
                    )
            principal = self._read_principal(view, attributes, headers)
            decision = decide(view.rules, principal, target)
            # Behind a door that leads on each call is noted by itself.
            note = _ignore if decision.is_allowed and leads_on(target) else self._note
            note(
                Noted(
                    principal,
                    target,
                    "allowed" if decision.is_allowed else "refused",
                    decision.reason,
                    decision.rule,
                    door,
                    _client(attributes, headers),
                    correlation_id,
                )
            )
            if decision.is_allowed:
                return self._allow(view, principal, target, headers, _client(attributes, headers))
            error = _refusal(decision)
        except (InvalidInput, Unauthenticated, PermissionDenied, Unavailable) as err:
            error = err
            if principal is None and err.reason != "FIREWALL":
                noted = Noted(
                    None, target, "refused", err.reason, "", door, _client(attributes, headers), correlation_id
                )
                self._note(noted)
        return self._deny(error, correlation_id, is_grpc=door == "grpc")

    def _read_principal(self, view: AccessView, attributes: Any, headers: dict[str, str]) -> Principal:
        tokens: dict[str, Any] = {}
        filters = attributes.metadata_context.filter_metadata
        if _TOKENS in filters:
            tokens = dict(filters[_TOKENS].fields)
        peer = attributes.source.principal
        return read_principal(view, headers, tokens, peer if peer.startswith("spiffe://") else "", clock=self._clock)

    def _allow(
        self, view: AccessView, principal: Principal, target: Target, headers: dict[str, str], client: str
    ) -> Any:
        response = self._response()
        ok = response.ok_response
        header = ok.headers.add()
        header.header.key = "x-mesh-user"
        header.header.value = self.sign(replace(principal, roles=view.rules.roles_of(principal)))
        header.append_action = _OVERWRITE
        if is_basic_for_tokens(headers):
            client_header = ok.headers.add()
            client_header.header.key = "x-client-authorization"
            client_header.header.value = headers["authorization"]
            client_header.append_action = _OVERWRITE
        else:
            ok.headers_to_remove.append("x-client-authorization")
        ok.headers_to_remove.extend(_TAKEN_OFF)
        self._limit(response, view.edge.limits, limits_of(view.edge.limits, principal, target, client))
        return response

    def _limit(self, response: Any, limits: Mapping[str, Limit], asked: dict[str, dict[str, str]]) -> None:
        """Let Envoy ask for those limits of which nothing was taken in advance."""
        to_ask = {}
        for name, values in asked.items():
            leased = self._take_leased(name, limits[name], tuple(values.values()))
            if leased is None:
                to_ask[name] = values
                continue
            for header, value in zip(("ratelimit-policy", "ratelimit"), leased, strict=True):
                added = response.ok_response.response_headers_to_add.add()
                added.header.key, added.header.value = header, value
        if to_ask:
            response.dynamic_metadata.update({"limits": to_ask})

    def _deny(self, error: MeshError, correlation_id: str, *, is_grpc: bool) -> Any:
        response = self._response()
        code = code_of(error)
        response.status.code = code.value[0]
        denied = response.denied_response
        denied.status.code = _HTTP_STATUS.get(code, 403)
        status = error_to_status(error, service=GATEWAY, correlation_id=correlation_id)
        denied.body = status.message
        _add(denied, "x-mesh-reason", error.reason)
        if code is grpc.StatusCode.UNAUTHENTICATED:
            # RFC 6750, section 3
            hint = 'Bearer realm="agentmesh"'
            _add(
                denied,
                "www-authenticate",
                hint if error.reason == "NOT_AUTHENTICATED" else f'{hint}, error="invalid_token"',
            )
        if is_grpc:
            details = base64.b64encode(status.SerializeToString()).rstrip(b"=").decode()
            _add(denied, "grpc-status-details-bin", details)
        return response

    def _note_finding(
        self, rule: str, blocks: bool, target: Target, door: str, attributes: Any, correlation_id: str
    ) -> None:
        client = attributes.source.address.socket_address.address
        decision = "blocked" if blocks else "allowed"
        self._note(Noted(None, target, decision, "FIREWALL", rule, door, client, correlation_id))


class _OneMethod(grpc.GenericRpcHandler):
    def __init__(self, method: str, behaviour: Any, read: Any, write: Any) -> None:
        self._method = method
        self._handler: Any = grpc.unary_unary_rpc_method_handler(behaviour, read, write)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._handler if handler_call_details.method == self._method else None


def claims_of(principal: Principal) -> dict[str, Any]:
    """What a user token says of a principal."""
    return {
        "sub": str(principal),
        "kind": principal.kind,
        "name": principal.name,
        "roles": list(principal.roles),
        **({"issuer": principal.issuer} if principal.issuer else {}),
        **({"login": principal.login} if principal.login else {}),
    }


def _refusal(decision: Decision) -> MeshError:
    if decision.reason == "NOT_AUTHENTICATED":
        fix = "Get a token with `meshctl login` or at /oauth2/token, or send an API key in x-api-key."
        return Unauthenticated(decision.summary, reason=decision.reason, fix=fix)
    fix = "Ask an operator for a role that allows it; `meshctl can-i` tells what is allowed."
    return PermissionDenied(decision.summary, reason=decision.reason, fix=fix)


def _add(denied: Any, name: str, value: str) -> None:
    header = denied.headers.add()
    header.header.key, header.header.value = name, value


def _ignore(noted: Noted) -> None:
    """For what is noted elsewhere."""


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
