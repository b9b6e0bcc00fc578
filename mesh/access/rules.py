"""The rules of the mesh document about calls from outside, ready to be asked.

bindings ──who──> roles ──what──> allow, deny
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mesh.access.principal import Principal
from mesh.access.target import Target
from mesh.config.document import Text
from mesh.config.document.access import AccessPolicy, Binding, Rule

ANYTHING = "*"


@dataclass(frozen=True, slots=True)
class NamedRule:
    """A rule with the role that it stands in; `name` is ROLE.allow[NUMBER] or ROLE.deny[NUMBER]."""

    role: str
    name: str
    rule: Rule

    def fits(self, target: Target) -> bool:
        """Whether the rule is about all of what is asked for."""
        rule = self.rule
        return (
            _has(rule.services, target.service)
            and fits_method(rule.methods, target.method)
            and _covers(rule.tools, target.tool)
            and _covers(rule.skills, target.skill)
        )

    def touches(self, target: Target) -> bool:
        """Whether the rule is about some of what is asked for: "*" asks for every tool, so for that of the rule."""
        rule = self.rule
        return (
            _has(rule.services, target.service)
            and fits_method(rule.methods, target.method)
            and _meets(rule.tools, target.tool)
            and _meets(rule.skills, target.skill)
        )


class AccessRules:
    """Compiled rules. Never changed; a new document makes new ones."""

    def __init__(self, policy: AccessPolicy) -> None:
        self.policy = policy

    @cached_property
    def allows(self) -> Mapping[str, tuple[NamedRule, ...]]:
        """What each role allows."""
        return {name: tuple(_named(name, "allow", role.allow)) for name, role in self.policy.roles.items()}

    @cached_property
    def denies(self) -> Mapping[str, tuple[NamedRule, ...]]:
        """What each role denies."""
        return {name: tuple(_named(name, "deny", role.deny)) for name, role in self.policy.roles.items()}

    def roles_of(self, principal: Principal) -> tuple[str, ...]:
        """The roles of a principal, sorted: its own and those of bindings that are about it. Unknown ones count not."""
        found = set(principal.roles)
        for binding in self.policy.bindings.values():
            if _is_about(binding, principal):
                found.update(binding.roles)
        return tuple(sorted(found & self.policy.roles.keys()))


def _named(role: str, action: str, rules: Sequence[Rule]) -> Iterator[NamedRule]:
    for number, rule in enumerate(rules):
        yield NamedRule(role, f"{role}.{action}[{number}]", rule)


def _is_about(binding: Binding, principal: Principal) -> bool:
    kind, name = principal.kind, principal.name
    if kind == "anonymous":
        return binding.anonymous
    if binding.authenticated:
        return True
    named = {"user": binding.users, "key": binding.keys, "service": binding.services}.get(kind, ())
    if _has(named, name):
        return True
    return bool(binding.claims) and binding.issuer == principal.issuer and _has_claims(binding, principal)


def _has_claims(binding: Binding, principal: Principal) -> bool:
    return all(_fits_text(_claim(principal.claims, name), text) for name, text in binding.claims.items())


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """The value of a claim; dots lead into objects, unless there is a claim of the whole name."""
    if name in claims:
        return claims[name]
    value: Any = claims
    for step in name.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def _fits_text(value: Any, text: Text) -> bool:
    if isinstance(value, list | tuple):
        return any(_fits_text(item, text) for item in value)
    if isinstance(value, bool):
        value = "true" if value else "false"
    elif isinstance(value, int | float):
        value = f"{value:g}"
    return isinstance(value, str) and text.fits(value)


def _has(words: Sequence[str], word: str) -> bool:
    return ANYTHING in words or word in words


def fits_method(patterns: Sequence[str], method: str) -> bool:
    """Whether one of the patterns, as the mesh document has them, is about a method."""
    for pattern in patterns:
        if pattern in (ANYTHING, method):
            return True
        # PACKAGE.SERVICE/* and /PATH*
        if pattern.endswith("*") and method.startswith(pattern[:-1]) and len(pattern) > 1:
            return True
    return False


def _covers(words: Sequence[str], asked: str) -> bool:
    """Whether what is asked for lies in the words; a call that is about no tool fits only who may call every one."""
    return ANYTHING in words or (asked not in ("", ANYTHING) and asked in words)


def _meets(words: Sequence[str], asked: str) -> bool:
    return ANYTHING in words or asked == ANYTHING or asked in words
