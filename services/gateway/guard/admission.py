"""May this request pass at all, and as whose: asked by Envoy of the guard, and by doors that decide for themselves.

request ──firewall──> credentials ──> Principal ──decide──> Admitted: user token, limits
                                                    └─────> audit
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from mesh.access import Decision, Principal, Target, decide
from mesh.access.decision import leads_on
from mesh.access.target import ANYTHING
from mesh.config.document.edge import Limit
from mesh.errors import InvalidInput, MeshError, PermissionDenied, Unauthenticated, Unavailable
from services.gateway.guard.credentials import read_principal
from services.gateway.guard.limits import limits_of
from services.gateway.guard.notes import Noted
from services.gateway.guard.view import AccessView

REFUSALS = (InvalidInput, Unauthenticated, PermissionDenied, Unavailable)
"""What a request is refused with."""


class Signs(Protocol):
    """Makes the token that tells services on whose behalf a call is made."""

    def sign(self, key: object, claims: dict[str, Any]) -> str:
        """A token with these claims, made anew from time to time for each key."""


TakeLeased = Callable[[str, Limit, tuple[str, ...]], tuple[str, str] | None]
"""Lets a call pass by a lease of a limit, see `RateLimits.take_leased`."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is known of a request before it is let in.

    `path` is the one that the client has sent, with its query. `tokens` is what Envoy has found out about JSON Web
    Tokens, see `read_principal`; `peer` the SPIFFE id of a certificate of the mesh, "" without one; `door` the form in
    which the call came.
    """

    path: str
    headers: Mapping[str, str]
    tokens: Mapping[str, Any] = field(default_factory=dict)
    peer: str = ""
    client: str = ""
    correlation_id: str = ""
    door: str = "http"


@dataclass(frozen=True, slots=True)
class Admitted:
    """Who has been let in, with all roles, and the token that says so to services.

    `limits` are headers of the answer, ratelimit-policy and ratelimit, for what was counted in advance; `to_ask` are
    the values of those limits that have to be asked for, by the limits' names.
    """

    principal: Principal
    token: str
    limits: tuple[tuple[str, str], ...]
    to_ask: Mapping[str, Mapping[str, str]]


class Admission:
    """Lets requests in by the newest view, and notes what it decides."""

    def __init__(
        self,
        view: Callable[[], AccessView | None],
        signer: Signs,
        note: Callable[[Noted], None],
        take_leased: TakeLeased = lambda *_: None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._view = view
        self._signer = signer
        self._note = note
        self._take_leased = take_leased
        self._clock = clock

    def admit(self, request: Request, target: Target, inspected: bytes = b"") -> Admitted:
        """Let a request in that asks for `target`; `inspected` is what people have written in it.

        Raises one of REFUSALS, noted already.
        """
        principal: Principal | None = None
        try:
            view = self._view()
            if view is None:
                raise Unavailable("The gateway does not know yet who may call what.", reason="GATEWAY_STARTING")
            self._inspect(view, request, target, inspected)
            principal = read_principal(view, request.headers, request.tokens, request.peer, clock=self._clock)
            decision = decide(view.rules, principal, target)
            refusal = bound_elsewhere(view, principal, target) if decision.is_allowed else _refusal(decision)
            if refusal is not None:
                self._tell(request, principal, target, "refused", refusal.reason, decision.rule)
                raise refusal
            if not leads_on(target):
                # Behind a door that leads on each call is noted by itself.
                self._tell(request, principal, target, "allowed", decision.reason, decision.rule)
        except REFUSALS as err:
            if principal is None and err.reason != "FIREWALL":
                self.note_refusal(request, target, err)
            raise
        return self._admitted(view, principal, request, target)

    def note_refusal(self, request: Request, target: Target, error: MeshError) -> None:
        """Note a request that is refused before it is known whose it is."""
        self._tell(request, None, target, "refused", error.reason)

    def sign(self, principal: Principal) -> str:
        """The token that tells services, and the gateway's own doors, on whose behalf a call is made.

        It has all roles of the principal: the claims that some of them come from stay here.
        """
        return self._signer.sign(principal, claims_of(principal))

    def _admitted(self, view: AccessView, principal: Principal, request: Request, target: Target) -> Admitted:
        limits: list[tuple[str, str]] = []
        to_ask = {}
        shared = view.edge.limits
        for name, values in limits_of(shared, principal, target, request.client).items():
            leased = self._take_leased(name, shared[name], tuple(values.values()))
            if leased is None:
                to_ask[name] = values
            else:
                limits += zip(("ratelimit-policy", "ratelimit"), leased, strict=True)
        known = replace(principal, roles=view.rules.roles_of(principal))
        return Admitted(known, self.sign(known), tuple(limits), to_ask)

    def _inspect(self, view: AccessView, request: Request, target: Target, inspected: bytes) -> None:
        finding = view.firewall.inspect(request.path, request.headers, inspected)
        if finding is None:
            return
        word = "blocked" if finding.blocks else "allowed"
        self._tell(request, None, target, word, "FIREWALL", finding.rule)
        if finding.blocks:
            raise PermissionDenied(
                f"The request fits the firewall rule {finding.rule}.",
                reason="FIREWALL",
                field=finding.where,
                fix="Send it without what looks like an attack, or ask the operator to change the rule.",
            )

    def _tell(
        self, request: Request, principal: Principal | None, target: Target, word: str, reason: str, rule: str = ""
    ) -> None:
        self._note(Noted(principal, target, word, reason, rule, request.door, request.client, request.correlation_id))


def bound_elsewhere(view: AccessView, principal: Principal, target: Target) -> PermissionDenied | None:
    """Why a tool or a skill is called at a door of MCP only; None where any door will do."""
    name = target.tool or target.skill
    if not name or not view.tools.is_bound(target.service, name, view.rules.roles_of(principal)):
        return None
    what = f"tools of {target.service}" if name == ANYTHING else name
    return PermissionDenied(
        f"There are rules about {what} that are kept over MCP only.",
        reason="ONLY_OVER_MCP",
        fix=f"Call it at /mcp or, for an MCP server, at /servers/{target.service}/mcp.",
    )


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


def challenge_of(error: MeshError) -> str:
    """The header www-authenticate for who is not authenticated: RFC 6750, section 3."""
    hint = 'Bearer realm="agentmesh"'
    return hint if error.reason == "NOT_AUTHENTICATED" else f'{hint}, error="invalid_token"'


def _refusal(decision: Decision) -> MeshError:
    if decision.reason == "NOT_AUTHENTICATED":
        fix = "Get a token with `meshctl login` or at /oauth2/token, or send an API key in x-api-key."
        return Unauthenticated(decision.summary, reason=decision.reason, fix=fix)
    fix = "Ask an operator for a role that allows it; `meshctl can-i` tells what is allowed."
    return PermissionDenied(decision.summary, reason=decision.reason, fix=fix)
