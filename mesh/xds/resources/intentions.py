"""Who may call what, as RBAC rules that sidecars of the called service apply to each request."""

from collections.abc import Iterable
from typing import Any

from mesh.config.document import Intention, NamedIntentions
from mesh.model import SpiffeId
from mesh.xds import names
from mesh.xds.resources.resource import any_of
from mesh.xds.resources.values import header_matcher

HEALTH_CHECK = "/grpc.health.v1.Health/Check"
REGISTRY_SERVICE = "consul"
"""The identity with which the registry checks health; it may do nothing else."""

_RBAC = "extensions.filters.http.rbac.v3"


def open_filter(name: str) -> dict[str, Any]:
    """An RBAC filter that lets everything through, unless a route says otherwise."""
    return {"name": name, "typed_config": any_of(f"{_RBAC}.RBAC")}


def only_members(identity: SpiffeId) -> dict[str, Any]:
    """The RBAC filter of every sidecar: members may call, the registry may check health."""
    policies = {
        "registry": {
            "permissions": [{"url_path": {"path": {"exact": HEALTH_CHECK}}}],
            "principals": [_registry(identity)],
        },
        "members": {"permissions": [{"any": True}], "principals": [_members(identity)]},
    }
    literal = {"rules": {"action": "ALLOW", "policies": policies}}
    return {"name": "rbac", "typed_config": any_of(f"{_RBAC}.RBAC", literal)}


def build_denials(identity: SpiffeId, intentions: NamedIntentions, revoked: Iterable[str]) -> dict[str, Any]:
    """The rules of the filter that denies: revoked identities, then intentions; nothing where there are none."""
    policies = _policies(identity, intentions, "deny")
    if principals := [_service(identity, service) for service in sorted(revoked)]:
        policies["revoked"] = {"permissions": [{"any": True}], "principals": principals}
    return _per_route(names.DENY_FILTER, "DENY", policies) if policies else {}


def build_permissions(identity: SpiffeId, intentions: NamedIntentions) -> dict[str, Any]:
    """The rules of the filter that allows, for a mesh in which what nobody allows is denied.

    What the registry may do is said elsewhere, see `only_members`.
    """
    policies = _policies(identity, intentions, "allow")
    return _per_route(names.ALLOW_FILTER, "ALLOW", policies)


def lift_intentions(identity: SpiffeId, revoked: Iterable[str]) -> dict[str, Any]:
    """Takes all intentions off one route; revoked identities stay denied."""
    return _lifted(names.ALLOW_FILTER) | _lifted(names.DENY_FILTER) | build_denials(identity, (), revoked)


def _lifted(name: str) -> dict[str, Any]:
    return {name: any_of(f"{_RBAC}.RBACPerRoute")}


def _per_route(name: str, action: str, policies: dict[str, Any]) -> dict[str, Any]:
    rules = {"rules": {"action": action, "policies": policies}}
    return {name: any_of(f"{_RBAC}.RBACPerRoute", {"rbac": rules})}


def _policies(identity: SpiffeId, intentions: NamedIntentions, action: str) -> dict[str, Any]:
    return {f"intention {name}": _policy(identity, it) for name, it in intentions if it.action == action}


def _policy(identity: SpiffeId, intention: Intention) -> dict[str, Any]:
    methods = [_method(pattern) for pattern in intention.methods]
    wanted = [{"or_rules": {"rules": methods}}]
    wanted += [{"header": header_matcher(name, match)} for name, match in sorted(intention.headers.items())]
    principals = [_members(identity) if name == "*" else _service(identity, name) for name in intention.callers]
    return {
        "permissions": wanted if len(wanted) == 1 else [{"and_rules": {"rules": wanted}}],
        "principals": principals,
    }


def _method(pattern: str) -> dict[str, Any]:
    """A permission for PACKAGE.SERVICE/METHOD, PACKAGE.SERVICE/*, /PATH, /PATH* or "*"."""
    if pattern == "*":
        return {"any": True}
    path = pattern if pattern.startswith("/") else f"/{pattern}"
    text = {"prefix": path.removesuffix("*")} if path.endswith("*") else {"exact": path}
    return {"url_path": {"path": text}}


def _registry(identity: SpiffeId) -> dict[str, Any]:
    return _service(identity, REGISTRY_SERVICE)


def _members(identity: SpiffeId) -> dict[str, Any]:
    """Every service of the mesh; the registry is none."""
    prefix = str(identity).removesuffix(identity.service)
    member = {"authenticated": {"principal_name": {"prefix": prefix}}}
    return {"and_ids": {"ids": [member, {"not_id": _registry(identity)}]}}


def _service(identity: SpiffeId, service: str) -> dict[str, Any]:
    prefix = str(identity).removesuffix(identity.service)
    return {"authenticated": {"principal_name": {"exact": f"{prefix}{service}"}}}
