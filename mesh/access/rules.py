"""The rules of the mesh document about calls from outside, compiled once for each document.

    bindings ──who──> roles ──what──> denials, permissions ──> Verdict

What was found out is kept, within bounds: the same few principals call the same few things again and again.
"""

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeVar

from mesh.access.principal import Principal
from mesh.access.target import ANYTHING, Target
from mesh.config.document import Text
from mesh.config.document.access import AccessPolicy, Binding, Rule

_MOST_KEPT = 4096
_LONGEST_KEPT = 512
"""Characters of a name: what has longer ones is not kept, so that clients cannot fill the memory."""
_LARGEST_EXACT = 1 << 53

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which rule decides, and how; `role` and `rule` are "" where none says anything."""

    effect: Literal["allowed", "denied", "unsaid"]
    role: str = ""
    rule: str = ""


_UNSAID = Verdict("unsaid")


@dataclass(frozen=True, slots=True)
class _Judge:
    """One rule, with the verdict for what it is about."""

    rule: Rule
    verdict: Verdict

    def covers(self, target: Target) -> bool:
        """Whether the rule is about all of what is asked for; of a call without a tool, no rule for one tool is."""
        rule = self.rule
        return (
            fits_method(rule.methods, target.method)
            and _covers(rule.tools, target.tool)
            and _covers(rule.skills, target.skill)
        )

    def meets(self, target: Target) -> bool:
        """Whether the rule is about some of what is asked for: who asks for every tool asks for that of the rule."""
        rule = self.rule
        return (
            (target.method == ANYTHING or fits_method(rule.methods, target.method))
            and _meets(rule.tools, target.tool)
            and _meets(rule.skills, target.skill)
        )

    @property
    def is_about_all(self) -> bool:
        """Whether nothing of a service is left out."""
        return all(ANYTHING in words for words in (self.rule.methods, self.rule.tools, self.rule.skills))


@dataclass(frozen=True, slots=True)
class _Relevant:
    """What some roles say of one service, in order."""

    denials: tuple[_Judge, ...]
    permissions: tuple[_Judge, ...]


class AccessRules:
    """Compiled rules. What they say never changes; a new document makes new ones."""

    def __init__(self, policy: AccessPolicy) -> None:
        self._roles = {
            name: (_judges(name, "deny", role.deny), _judges(name, "allow", role.allow))
            for name, role in sorted(policy.roles.items())
        }
        self._bindings = tuple(binding for binding in policy.bindings.values() if not binding.claims)
        self._claiming = tuple(binding for binding in policy.bindings.values() if binding.claims)
        self._roles_by_principal: OrderedDict[Principal, tuple[str, ...]] = OrderedDict()
        self._roles_joined: OrderedDict[tuple[tuple[str, ...], tuple[int, ...]], tuple[str, ...]] = OrderedDict()
        self._relevant: OrderedDict[tuple[tuple[str, ...], str], _Relevant] = OrderedDict()
        self._verdicts: OrderedDict[tuple[tuple[str, ...], Target], Verdict] = OrderedDict()

    def roles_of(self, principal: Principal) -> tuple[str, ...]:
        """The roles of a principal, sorted: its own and those of bindings that are about it. Unknown ones count not."""
        found = _recall(self._roles_by_principal, principal)
        if found is None:
            names = {*principal.roles}.union(*(b.roles for b in self._bindings if _is_about(b, principal)))
            found = tuple(sorted(names & self._roles.keys()))
            if len(principal.name) <= _LONGEST_KEPT:
                _keep(self._roles_by_principal, principal, found)
        # Claims are no part of what makes principals equal, so what they give is found out each time.
        claimed = tuple(n for n, binding in enumerate(self._claiming) if _has_claims(binding, principal))
        return self._joined(found, claimed) if claimed else found

    def _joined(self, found: tuple[str, ...], claimed: tuple[int, ...]) -> tuple[str, ...]:
        """Roles together with those of some of the bindings to claims, by their numbers."""
        joined = _recall(self._roles_joined, (found, claimed))
        if joined is None:
            names = {*found}.union(*(self._claiming[number].roles for number in claimed))
            joined = tuple(sorted(names & self._roles.keys()))
            _keep(self._roles_joined, (found, claimed), joined)
        return joined

    def judge(self, roles: tuple[str, ...], target: Target) -> Verdict:
        """What roles that there are say of a target: the first denial of any of them, else the first permission."""
        key = (roles, target)
        verdict = _recall(self._verdicts, key)
        if verdict is None:
            relevant = self._about(roles, target.service)
            verdict = next((judge.verdict for judge in relevant.denials if judge.meets(target)), None) or next(
                (judge.verdict for judge in relevant.permissions if judge.covers(target)), _UNSAID
            )
            if len(target.method) + len(target.tool) + len(target.skill) <= _LONGEST_KEPT:
                _keep(self._verdicts, key, verdict)
        return verdict

    def shows(self, roles: tuple[str, ...], service: str) -> bool:
        """Whether roles allow anything at all of a service, and none of them denies all of it."""
        relevant = self._about(roles, service)
        return bool(relevant.permissions) and not any(denial.is_about_all for denial in relevant.denials)

    def _about(self, roles: tuple[str, ...], service: str) -> _Relevant:
        key = (roles, service)
        relevant = _recall(self._relevant, key)
        if relevant is None:
            denials, permissions = (
                tuple(
                    judge
                    for role in roles
                    for judge in self._roles[role][side]
                    if ANYTHING in judge.rule.services or service in judge.rule.services
                )
                for side in (0, 1)
            )
            relevant = _Relevant(denials, permissions)
            _keep(self._relevant, key, relevant)
        return relevant


def fits_method(patterns: Sequence[str], method: str) -> bool:
    """Whether one of the patterns, as the mesh document has them, is about a method or a path.

    The path of PACKAGE.SERVICE/METHOD is /PACKAGE.SERVICE/METHOD: it is the same in a pattern and in what is called.
    """
    exact, beginnings = _compiled(tuple(patterns))
    if exact is None:
        return True
    bare = method.removeprefix("/")
    return bare in exact or bare.startswith(beginnings)


@lru_cache(maxsize=8192)
def _compiled(patterns: tuple[str, ...]) -> tuple[frozenset[str] | None, tuple[str, ...]]:
    """The exact patterns and the beginnings, without the slash in front; no exact ones: everything fits."""
    if ANYTHING in patterns:
        return None, ()
    bare = [pattern.removeprefix("/") for pattern in patterns]
    # PACKAGE.SERVICE/* and /PATH*
    beginnings = tuple(pattern[:-1] for pattern in bare if pattern.endswith("*"))
    return frozenset(pattern for pattern in bare if not pattern.endswith("*")), beginnings


def _judges(role: str, action: Literal["allow", "deny"], rules: Sequence[Rule]) -> tuple[_Judge, ...]:
    effect: Literal["allowed", "denied"] = "allowed" if action == "allow" else "denied"
    return tuple(_Judge(rule, Verdict(effect, role, f"{role}.{action}[{number}]")) for number, rule in enumerate(rules))


def _is_about(binding: Binding, principal: Principal) -> bool:
    kind = principal.kind
    if kind == "anonymous":
        return binding.anonymous
    if binding.authenticated:
        return True
    named = {"user": binding.users, "key": binding.keys, "service": binding.services}.get(kind, ())
    return ANYTHING in named or principal.name in named


def _has_claims(binding: Binding, principal: Principal) -> bool:
    """Whether the binding is about a principal, by its claims or otherwise."""
    return _is_about(binding, principal) or (
        bool(principal.claims)
        and binding.issuer == principal.issuer
        and all(_fits_text(_claim(principal.claims, name), text) for name, text in binding.claims.items())
    )


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
        return any(not isinstance(item, list | tuple) and _fits_text(item, text) for item in value)
    return isinstance(value, str | int | float) and text.fits(_word(value))


def _word(value: str | float) -> str:
    """A claim as people write it; Envoy hands all numbers on as floating ones."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < _LARGEST_EXACT:
        return str(int(value))
    return str(value)


def _covers(words: Sequence[str], asked: str) -> bool:
    return ANYTHING in words or (asked not in ("", ANYTHING) and asked in words)


def _meets(words: Sequence[str], asked: str) -> bool:
    return ANYTHING in words or asked == ANYTHING or asked in words


def _recall(kept: OrderedDict[K, V], key: K) -> V | None:
    value = kept.get(key)
    if value is not None:
        kept.move_to_end(key)
    return value


def _keep(kept: OrderedDict[K, V], key: K, value: V) -> None:
    kept[key] = value
    if len(kept) > _MOST_KEPT:
        kept.popitem(last=False)
