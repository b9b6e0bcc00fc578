"""May this principal call that? One function decides: at the edge, in the doors of the gateway, for operators."""

import re
from dataclasses import dataclass

from mesh.access.principal import Principal
from mesh.access.rules import AccessRules
from mesh.access.target import GATEWAY, Target

OPEN_PATHS = ("/healthz", "/readyz", "/oauth2/", "/.well-known/", "/v1/auth/login")
"""What the gateway serves to everybody: who has no credential gets one there. With a / at the end: all below it."""

OPEN_SERVICES = (
    "grpc.health.v1.Health/",
    "grpc.reflection.v1.ServerReflection/",
    "grpc.reflection.v1alpha.ServerReflection/",
    "lf.a2a.v1.A2AService/",
)
"""What the gateway serves to everybody over gRPC: contracts are public; A2A decides by itself, by agent and skill."""

ALL_SERVERS = "/mcp"
"""The door behind which all MCP servers and agents are."""

_DOORS = re.compile(r"/(?:servers|agents)/([^/]+)(?:/|\Z)")
"""Doors behind which one service is. What may be called there is decided again, tool by tool."""
_OPEN = frozenset(path for path in OPEN_PATHS if not path.endswith("/"))
_OPEN_BELOW = tuple(path for path in (*OPEN_PATHS, *OPEN_SERVICES) if path.endswith("/"))


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided, and why, in a sentence for people. `role` and `rule` say which rule it was, "" when none was.

    `reason` is stable and in UPPER_SNAKE_CASE: OPEN, ALLOWED, DENIED_BY_RULE, NO_RULE, NOT_AUTHENTICATED. `rule` is
    ROLE.allow[NUMBER] or ROLE.deny[NUMBER], counted from 0.
    """

    is_allowed: bool
    reason: str
    summary: str
    role: str = ""
    rule: str = ""


def decide(rules: AccessRules, principal: Principal, target: Target) -> Decision:
    """Whether the principal may call the target. A denial of any of its roles beats every permission.

    Who shows no credential and has no right is not authenticated, which is another thing than having no right.
    """
    if is_open(target):
        return Decision(True, "OPEN", "This is open to everybody.")
    roles = rules.roles_of(principal)
    verdict = rules.judge(roles, target)
    if verdict.effect == "allowed":
        summary = f"{principal} may call {target} as {verdict.role}."
        return Decision(True, "ALLOWED", summary, verdict.role, verdict.rule)
    if verdict.effect == "denied":
        summary = f"{principal} may not call {target}: the role {verdict.role} denies it."
        # A denial for those without a credential says nothing of those with one.
        reason = "NOT_AUTHENTICATED" if principal.kind == "anonymous" else "DENIED_BY_RULE"
        return Decision(False, reason, summary, verdict.role, verdict.rule)
    if _has_something_behind(rules, roles, target):
        return Decision(True, "ALLOWED", "What is behind this door is decided call by call.")
    if principal.kind == "anonymous":
        return Decision(False, "NOT_AUTHENTICATED", f"{target} needs a credential: a token or an API key.")
    has = f"None of its roles ({', '.join(roles)}) allows" if roles else "It has no role that allows"
    return Decision(False, "NO_RULE", f"{principal} may not call {target}. {has} that.")


def leads_on(target: Target) -> bool:
    """Whether the target is a door of the gateway behind which each call is decided by itself."""
    return target.service == GATEWAY and (target.method == ALL_SERVERS or _DOORS.match(target.method) is not None)


def _has_something_behind(rules: AccessRules, roles: tuple[str, ...], target: Target) -> bool:
    if not leads_on(target):
        return False
    door = _DOORS.match(target.method)
    return bool(roles) if door is None else rules.shows(roles, door[1])


def may_see(rules: AccessRules, principal: Principal, service: str) -> bool:
    """Whether the principal may call anything at all of a service: then it is told that there is one."""
    return rules.shows(rules.roles_of(principal), service)


def is_open(target: Target) -> bool:
    """Whether everybody may call it."""
    return target.service == GATEWAY and (target.method in _OPEN or target.method.startswith(_OPEN_BELOW))
