"""What no single value of `access`, `edge` and `tools` shows: roles, issuers, methods that there are none of."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

from mesh.config.document.access import AccessPolicy, Rule
from mesh.config.reasons import nearest
from mesh.config.yaml_lines import Path

if TYPE_CHECKING:
    from mesh.config.document.models import MeshDocument

_WAYS_TO_TOOLS = ("CallTool", "InvokeTool", "Link")
_WAYS_TO_SKILLS = ("SubmitTask", "Converse")

_Flaws = Iterator[tuple[Path, str]]


def access_flaws(document: "MeshDocument") -> _Flaws:
    """Where bindings name no role or no issuer, and where methods are misspelt or leave a way open."""
    access = document.access
    yield from _bindings(access)
    for name, role in access.roles.items():
        for side, rules in (("allow", role.allow), ("deny", role.deny)):
            for number, rule in enumerate(rules):
                yield from _methods(("access", "roles", name, side, number, "methods"), rule.methods)
        for number, rule in enumerate(role.deny):
            yield from _ways(("access", "roles", name, "deny", number, "methods"), rule)
    for name, limit in document.edge.limits.items():
        yield from _methods(("edge", "limits", name, "methods"), limit.methods)
    for name, cached in document.edge.cache.items():
        yield from _reads(("edge", "cache", name, "methods"), cached.methods)
    yield from _tools(document)


def services_at_the_edge(document: "MeshDocument") -> Iterator[tuple[Path, tuple[str, ...]]]:
    """The services that rules, limits and the cache name, and where."""
    for name, role in document.access.roles.items():
        for side, rules in (("allow", role.allow), ("deny", role.deny)):
            for number, rule in enumerate(rules):
                yield ("access", "roles", name, side, number, "services"), rule.services
    for name, limit in document.edge.limits.items():
        yield ("edge", "limits", name, "services"), limit.services
    for name, cached in document.edge.cache.items():
        yield ("edge", "cache", name, "services"), cached.services
    for name, about in document.tools.rules.items():
        yield ("tools", "rules", name, "servers"), about.servers
    for name, guardrail in document.tools.guardrails.items():
        yield ("tools", "guardrails", name, "service"), (guardrail.service,)


def _tools(document: "MeshDocument") -> _Flaws:
    """Roles and guardrails that there are none of."""
    for name, rule in document.tools.rules.items():
        at: Path = ("tools", "rules", name)
        for number, role in enumerate(rule.roles):
            if role not in document.access.roles:
                yield (*at, "roles", number), f"there is no role {role!r}{nearest(role, document.access.roles)}"
        for number, guardrail in enumerate(rule.guardrails):
            if guardrail not in document.tools.guardrails:
                advice = nearest(guardrail, document.tools.guardrails) or "; describe it under tools.guardrails"
                yield (*at, "guardrails", number), f"there is no guardrail {guardrail!r}{advice}"


def _bindings(access: AccessPolicy) -> _Flaws:
    for name, binding in access.bindings.items():
        at: Path = ("access", "bindings", name)
        for number, role in enumerate(binding.roles):
            if role not in access.roles:
                advice = nearest(role, access.roles) or f"; there are {', '.join(sorted(access.roles)) or 'none'}"
                yield (*at, "roles", number), f"there is no role {role!r}{advice}"
        if binding.issuer and binding.issuer not in access.issuers:
            advice = nearest(binding.issuer, access.issuers) or "; describe it under access.issuers"
            yield (*at, "issuer"), f"there is no issuer {binding.issuer!r}{advice}"


def _methods(at: Path, patterns: Sequence[str]) -> _Flaws:
    """Of the contracts of the mesh itself it is known which methods there are."""
    for number, pattern in enumerate(patterns):
        service, slash, method = pattern.removeprefix("/").rpartition("/")
        methods = _contracts().get(service)
        if methods is not None and slash and not method.endswith("*") and method not in methods:
            yield (*at, number), f"{service} has no method {method!r}{nearest(method, methods)}"
        elif methods is None and service.startswith("agentmesh."):
            advice = nearest(service, _contracts().keys()) or f"; there are {', '.join(_contracts())}"
            yield (*at, number), f"there is no contract {service!r} at the edge{advice}"


def _reads(at: Path, patterns: Sequence[str]) -> _Flaws:
    """Answers are kept of what is known to change nothing."""
    from mesh.rpc.contracts import find_reads, public_reads

    misspelt = dict(_methods(at, patterns))
    yield from misspelt.items()
    for number, pattern in enumerate(patterns):
        if (*at, number) not in misspelt and not find_reads(pattern):
            words = _words([method.rpartition(".")[2] for method in public_reads()])
            yield (*at, number), f"{pattern} is no read whose answers can be kept; those are {words}"


def _ways(at: Path, denial: Rule) -> _Flaws:
    """A denial of a tool is none if there is another way to the tool."""
    for what, names, ways in (("tools", denial.tools, _WAYS_TO_TOOLS), ("skills", denial.skills, _WAYS_TO_SKILLS)):
        if "*" in names or "*" in denial.methods:
            continue
        open_ways = [way for way in ways if not _names_any(denial.methods, way)]
        if open_ways:
            yield at, f"{what} can be called through {_words(open_ways)}, too; leave methods out to deny all ways"


def _names_any(patterns: Iterable[str], method: str) -> bool:
    full = next(f"{service}/{method}" for service, methods in _contracts().items() if method in methods)
    bare = [pattern.removeprefix("/") for pattern in patterns]
    return any(full == pattern or (pattern.endswith("*") and full.startswith(pattern[:-1])) for pattern in bare)


@cache
def _contracts() -> dict[str, frozenset[str]]:
    # Here, as the models need nothing of gRPC, and it takes longer to load than they do.
    from mesh.rpc.contracts import PUBLIC

    return {service.full_name: frozenset(method.name for method in service.methods) for service in PUBLIC}


def _words(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
