"""Routes of the inbound side: everything about a service's own instances that may change while connections are open.

A changed listener is for new connections only; routes count for the next request on every open one. So the listener
is made once, and intentions and limits come with the routes:

    virtual host *           intentions, limit of the service
      health checks          neither; only revoked identities are denied
      limited routes         the limit of a route, beside the others
      the rest               to the application
    virtual hosts of others  services whose limited routes lead here
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mesh.config.document import NamedIntentions, Route, Service, split_target
from mesh.model import SpiffeId
from mesh.xds import names
from mesh.xds.resources.intentions import HEALTH_CHECK, build_denials, build_permissions, lift_intentions
from mesh.xds.resources.limits import build_rate_limit, lift_rate_limit
from mesh.xds.resources.matches import build_match, path_expression
from mesh.xds.resources.resource import Resource, build_resource
from mesh.xds.resources.routes import claim_domains, to_application

_ORIGINAL_PATH = "x-envoy-original-path"
_DEFAULT = Service()


@dataclass(frozen=True, slots=True)
class InboundRules:
    """What holds for requests to one service. `others` are the services whose limited routes lead to it, by name."""

    identity: SpiffeId
    policy: Service = _DEFAULT
    intentions: NamedIntentions = ()
    is_default_deny: bool = False
    revoked: frozenset[str] = frozenset()
    others: tuple[tuple[str, Service], ...] = ()
    sampling_percent: float | None = None


@lru_cache(maxsize=16384)
def build_inbound_routes(rules: InboundRules) -> Resource:
    """The routes of the inbound listener."""
    filters = _filters(rules)
    domains = claim_domains((service, policy.authorities) for service, policy in rules.others)
    hosts = [
        _host(service, domains[service], filters, [*_exempt(rules, filters), *_routes(rules, policy)])
        for service, policy in rules.others
    ]
    own = [*_exempt(rules, filters), *_routes(rules, rules.policy)]
    hosts.append(_host(names.APP_CLUSTER, ("*",), filters, own))
    return build_resource(names.ROUTE, names.INBOUND, {"name": names.INBOUND, "virtual_hosts": hosts})


def limits_lead_to(policy: Service, service: str, target: str) -> bool:
    """True when a limited route of `service` leads to instances of the service `target`."""
    return any(
        route.rate_limit is not None and target in _services_of(policy, service, route) for route in policy.routes
    )


def _services_of(policy: Service, service: str, route: Route) -> set[str]:
    targets = [route.to] if route.to is not None else list(route.split or policy.split or (service,))
    return {split_target(target)[0] for target in targets}


def _host(name: str, domains: tuple[str, ...], filters: dict[str, Any], routes: list[dict[str, Any]]) -> dict[str, Any]:
    literal = {"name": name, "domains": list(domains), "routes": routes}
    return literal | ({"typed_per_filter_config": filters} if filters else {})


def _filters(rules: InboundRules) -> dict[str, Any]:
    permissions = build_permissions(rules.identity, rules.intentions) if rules.is_default_deny else {}
    limit = rules.policy.rate_limit
    return (
        build_denials(rules.identity, rules.intentions, rules.revoked)
        | permissions
        | (build_rate_limit(names.LIMIT_FILTER, limit) if limit is not None else {})
    )


def _exempt(rules: InboundRules, filters: dict[str, Any]) -> list[dict[str, Any]]:
    """Health checks of members and of the registry are no calls: no intention and no limit is about them."""
    if not filters:
        return []
    paths = [HEALTH_CHECK]
    check = rules.policy.health_check
    if check is not None and check.kind == "http":
        paths.append(check.path.partition("?")[0])
    lifted = lift_intentions(rules.identity, rules.revoked) | lift_rate_limit(names.LIMIT_FILTER)
    return [{"match": {"path": path}, **to_application(), "typed_per_filter_config": lifted} for path in paths]


def _routes(rules: InboundRules, policy: Service) -> list[dict[str, Any]]:
    """The routes of a service up to the last limited one, as the first that matches counts, and the rest."""
    last = max((at for at, route in enumerate(policy.routes) if route.rate_limit is not None), default=-1)
    action = to_application(rules.sampling_percent)
    literals = [{"match": _arriving(route), **action, **_limit(route)} for route in policy.routes[: last + 1]]
    return [*literals, {"match": {"prefix": "/"}, **action}]


def _limit(route: Route) -> dict[str, Any]:
    if route.rate_limit is None:
        return {}
    return {"typed_per_filter_config": build_rate_limit(names.ROUTE_LIMIT_FILTER, route.rate_limit)}


def _arriving(route: Route) -> dict[str, Any]:
    """How the requests of a route look when they arrive: the caller's sidecar may have rewritten the path."""
    match = build_match(route.match)
    rewrite = route.rewrite
    if rewrite is None or (rewrite.prefix is None and rewrite.regex is None):
        return match
    headers = match.pop("headers", [])
    original = {"name": _ORIGINAL_PATH, "string_match": {"safe_regex": {"regex": path_expression(route.match)}}}
    return {"prefix": "/", "headers": [*headers, original]}
