"""May this host do that: the decision of the mesh document, counted by its limits and told to the audit."""

from collections.abc import Callable, Hashable
from typing import Any

from mesh.access import GATEWAY, Decision, Principal, Target, decide
from mesh.access.target import ANYTHING
from mesh.config.document.edge import Limit
from mesh.errors import PermissionDenied, ResourceExhausted, Unauthenticated, Unavailable
from services.gateway.guard.limits import limits_of
from services.gateway.guard.notes import Noted, Notes
from services.gateway.guard.view import AccessView
from services.gateway.limits import RateLimits
from services.gateway.web.caller import Caller

MCP = "agentmesh.mcp.v1.McpBridgeService"

_METHODS = {
    "server/discover": "GetServer",
    "tools/list": "ListTools",
    "tools/call": "CallTool",
    "resources/list": "ListResources",
    "resources/templates/list": "ListResourceTemplates",
    "resources/read": "ReadResource",
    "prompts/list": "ListPrompts",
    "prompts/get": "GetPrompt",
    "completion/complete": "Complete",
    "subscriptions/listen": "Watch",
}
_OVER_LIMIT = 2


def target_of(server: str, method: str, name: str) -> Target:
    """What a request of MCP asks for, in the words of rules; one that is not known may be any tool."""
    if method == "tools/call":
        return Target(server, f"{MCP}/CallTool", tool=name or ANYTHING)
    if known := _METHODS.get(method):
        return Target(server, f"{MCP}/{known}")
    return Target(server, f"{MCP}/Ask", tool=ANYTHING)


class Policy:
    """Decides by the newest view; `limits` counts for all gateways."""

    def __init__(self, view: Callable[[], AccessView | None], limits: RateLimits, notes: Notes) -> None:
        self._view = view
        self._limits = limits
        self._notes = notes

    def decide(self, principal: Principal, target: Target) -> Decision:
        """The decision, told to nobody. Raises Unavailable before it is known who may do what."""
        return decide(self._known().rules, principal, target)

    def likeness(self, principal: Principal) -> Hashable:
        """The same for all who may do the same by the rules of now."""
        view = self._known()
        return view.version, view.rules.roles_of(principal), principal.kind == "anonymous"

    async def check(self, caller: Caller, target: Target) -> None:
        """Raise PermissionDenied, Unauthenticated or ResourceExhausted unless the caller may do it now."""
        view = self._known()
        decision = decide(view.rules, caller.principal, target)
        self._note(caller, target, "allowed" if decision.is_allowed else "refused", decision.reason, decision.rule)
        if not decision.is_allowed:
            kind = Unauthenticated if decision.reason == "NOT_AUTHENTICATED" else PermissionDenied
            raise kind(decision.summary, reason=decision.reason, fix="Ask an operator for a role that allows it.")
        await self._count(view, caller, target)

    def inspect(self, caller: Caller, target: Target, text: bytes) -> None:
        """Raise PermissionDenied for what the firewall blocks in what was sent; `text` is JSON."""
        firewall = self._known().firewall
        finding = firewall.inspect("", {}, text) if firewall.looks_at_bodies else None
        if finding is None:
            return
        word = "blocked" if finding.blocks else "allowed"
        self._note(caller, target, word, "FIREWALL", finding.rule)
        if finding.blocks:
            raise PermissionDenied(
                f"The request fits the firewall rule {finding.rule}.",
                reason="FIREWALL",
                field="params",
                fix="Send it without what looks like an attack, or ask the operator to change the rule.",
            )

    async def count(self, caller: Caller, target: Target) -> None:
        """Raise ResourceExhausted when a limit for it is used up."""
        await self._count(self._known(), caller, target)

    async def _count(self, view: AccessView, caller: Caller, target: Target) -> None:
        """Count a call for those limits that the guard, to whom all calls here look alike, has not counted."""
        limits = {name: limit for name, limit in view.edge.limits.items() if _is_ours(limit)}
        if not limits:
            return
        asked = [
            (name, tuple(values.values()))
            for name, values in limits_of(limits, caller.principal, target, caller.client).items()
            if self._limits.take_leased(name, limits[name], tuple(values.values())) is None
        ]
        if not asked:
            return
        answer: Any = await self._limits.answer(asked)
        if answer.overall_code == _OVER_LIMIT:
            raise ResourceExhausted(
                answer.raw_body.decode(), reason="OVER_LIMIT", fix="Call less often, or ask for a higher limit."
            )

    def _note(self, caller: Caller, target: Target, word: str, reason: str, rule: str) -> None:
        self._notes.note(
            Noted(caller.principal, target, word, reason, rule, "mcp", caller.client, caller.correlation_id)
        )

    def _known(self) -> AccessView:
        view = self._view()
        if view is None:
            raise Unavailable("The gateway does not know yet who may call what.", reason="GATEWAY_STARTING")
        return view


def _is_ours(limit: Limit) -> bool:
    return (
        bool({"service", "method", "tool"} & set(limit.per))
        or ("*" not in limit.services and GATEWAY not in limit.services)
        or "*" not in limit.tools
        or "*" not in limit.methods
    )
