"""What becomes of a call, told from the same state that the resources of proxies are built from.

callee ──> upstream? ──> first route that matches ──> targets ──> intention at the called service ──> verdict
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import yaml

from mesh.config.document import Intention, Route, Service, split_target
from mesh.model import Instance
from mesh.state import MeshState
from mesh.xds.blueprint import Blueprint, select
from mesh.xds.matching import Request, matches, matches_headers, matches_method
from mesh.xds.names import authority_of, cluster_of
from mesh.xds.resources.actions import shares_of
from mesh.xds.resources.faults import is_meant
from mesh.xds.resources.host import Host
from mesh.xds.resources.intentions import HEALTH_CHECK

DEFAULT_ROUTE = "default route"


@dataclass(frozen=True, slots=True)
class ExplainedTarget:
    """One place where a call may go.

    `target` is SERVICE or SERVICE/SUBSET, `cluster` Envoy's name for it. `percent` is its share of the requests, 0 for
    a fallback or a mirror. `role` is route, mirror or fallback. `endpoints` are "ID ADDRESS:PORT", healthy ones first.
    """

    target: str
    cluster: str
    percent: float
    role: str
    endpoints: tuple[str, ...]
    healthy: int


@dataclass(frozen=True, slots=True)
class ExplainedCall:
    """What becomes of a call; fields as those of agentmesh.config.v1.ExplainCallResponse."""

    is_allowed: bool
    verdict: str
    route: str = ""
    targets: tuple[ExplainedTarget, ...] = ()
    intention: str = ""
    policy: str = ""


@dataclass(frozen=True, slots=True)
class _Decision:
    is_allowed: bool
    intention: str


def explain_call(
    state: MeshState, caller: str, callee: str, method: str, headers: Mapping[str, str] | None = None
) -> ExplainedCall:
    """What becomes of a call of `caller` to `callee`, a service or an authority, with PACKAGE.SERVICE/METHOD or /PATH.

    Where an intention names only some of the places to which a call may go, the verdict tells which.
    """
    plan = Blueprint(state.policy)
    service = _service_of(state, callee)
    if service is None or service not in state.upstreams_of(caller):
        return ExplainedCall(
            is_allowed=False,
            verdict=f"{caller} has not declared {callee} as an upstream, or it does not exist.",
            intention="not an upstream",
        )
    given = {name.lower(): value for name, value in (headers or {}).items()}
    request = Request(
        callee if callee != service else authority_of(service),
        method if method.startswith("/") else f"/{method}",
        given,
        given.get(":method", "POST"),
    )
    host = plan.host(service, caller)
    route = next((it for it in host.policy.routes if matches(it.match, request)), None)
    chosen = route if route is not None else Route(name="default")
    targets = tuple(_targets(state, plan, host, chosen))
    arriving = _as_it_arrives(chosen, request)
    decisions = {
        name: _decide(state, caller, name, arriving)
        for name in dict.fromkeys(split_target(it.target)[0] for it in targets if it.role != "mirror")
    }
    is_allowed, verdict = _verdict(caller, targets, decisions)
    return ExplainedCall(
        is_allowed=is_allowed,
        verdict=verdict,
        route=f"{service}.routes {route.name}" if route is not None else DEFAULT_ROUTE,
        targets=targets,
        intention=next(iter(decisions.values())).intention,
        policy=_policy_text(host, chosen),
    )


def _service_of(state: MeshState, callee: str) -> str | None:
    """The service behind a name or an authority; names of services come first."""
    authority = callee.rpartition(":")[0] or callee if callee.rpartition(":")[2].isdigit() else callee
    name = authority.removesuffix(".mesh").removesuffix(".localhost")
    if name in state.names:
        return name
    services = state.policy.document.services.items()
    return next((name for name, it in sorted(services) if authority in it.authorities), None)


def _targets(state: MeshState, plan: Blueprint, host: Host, route: Route) -> Iterator[ExplainedTarget]:
    shares = shares_of(host, route)
    total = sum(shares.values())
    for target, weight in shares.items():
        yield _target(state, target, 100 * weight / total, "route")
    fallbacks = dict.fromkeys(it for target in shares for it in plan.fallbacks(target))
    for target in fallbacks:
        yield _target(state, target, 0, "fallback")
    if route.mirror is not None:
        yield _target(state, route.mirror.to, 0, "mirror")


def _target(state: MeshState, target: str, percent: float, role: str) -> ExplainedTarget:
    service, _ = split_target(target)
    instances = select(state.policy.of(service), target, state.services.get(service, ()))
    ordered = sorted(instances, key=lambda it: (not it.is_healthy, it.id))
    healthy = sum(it.is_healthy for it in instances)
    return ExplainedTarget(target, cluster_of(target), percent, role, tuple(map(_endpoint, ordered)), healthy)


def _endpoint(instance: Instance) -> str:
    return f"{instance.id} {instance.address}:{instance.port}"


def _as_it_arrives(route: Route, request: Request) -> Request:
    """The request as the called sidecar sees it, after the caller's has edited its headers and its path."""
    edits = route.headers.request
    headers = {name: value for name, value in request.headers.items() if name not in edits.remove}
    headers |= {name: value for name, value in (*edits.add.items(), *edits.set.items()) if isinstance(value, str)}
    path = request.path
    rewrite, matched = route.rewrite, route.match.path
    if rewrite is not None and rewrite.prefix is not None and matched is not None and matched.prefix is not None:
        path = rewrite.prefix + path.removeprefix(matched.prefix)
    elif rewrite is not None and rewrite.regex is not None and rewrite.substitution is not None:
        path = re.sub(rewrite.regex, rewrite.substitution, path)
    return Request(request.authority, path, headers, request.http_method)


def _decide(state: MeshState, caller: str, service: str, request: Request) -> _Decision:
    """What the sidecars of a service say: revocation, then denials, then permissions."""
    if caller in state.revoked:
        return _Decision(False, "revoked identity")
    if request.bare_path == HEALTH_CHECK:
        return _Decision(True, "health checks are no calls")
    found = [(name, it) for name, it in state.policy.intentions_for(service) if _is_about(it, caller, request)]
    for action in ("deny", "allow"):
        for name, intention in found:
            if intention.action == action:
                return _Decision(action == "allow", f"{action} by {name}")
    default = state.policy.document.mesh.default_intention
    return _Decision(default == "allow", f"default {default}")


def _is_about(intention: Intention, caller: str, request: Request) -> bool:
    return (
        (caller in intention.callers or "*" in intention.callers)
        and any(matches_method(pattern, request.bare_path) for pattern in intention.methods)
        and matches_headers(intention.headers, request.headers)
    )


def _verdict(caller: str, targets: tuple[ExplainedTarget, ...], decisions: Mapping[str, _Decision]) -> tuple[bool, str]:
    """Whether the call gets to an instance, and what to tell."""
    denied = {name: it.intention for name, it in decisions.items() if not it.is_allowed}
    told = "; ".join(f"{name} refuses {caller}: {why}" for name, why in denied.items())
    open_ways = [it for it in targets if it.role != "mirror" and split_target(it.target)[0] not in denied]
    if not open_ways:
        return False, f"PERMISSION_DENIED: {told}."
    healthy = [it for it in open_ways if it.healthy]
    if not healthy:
        empty = ", ".join(it.target for it in open_ways)
        return False, f"UNAVAILABLE: no healthy instance of {empty}." + (f" {told}." if told else "")
    routed = [it for it in healthy if it.role == "route"]
    shares = ", ".join(f"{it.target} {it.percent:g} %" for it in routed) or f"{healthy[0].target} as a fallback"
    if not any(it.role == "fallback" for it in healthy):
        lost = [f"no healthy instance of {it.target}" for it in open_ways if not it.healthy]
        told = "; ".join([*([told] if told else ()), *lost])
    return True, f"goes to {shares}." + (f" But {told}." if told else "")


def _policy_text(host: Host, route: Route) -> str:
    """What applies to the call, as a part of the mesh document."""
    policy = host.policy
    fault = route.fault if route.fault is not None else policy.fault
    chosen = Service(
        protocol=policy.protocol,
        load_balancing=policy.load_balancing,
        circuit_breaker=policy.circuit_breaker,
        outlier_detection=policy.outlier_detection,
        rate_limit=policy.rate_limit,
        timeout=route.timeout if route.timeout is not None else policy.timeout,
        idle_timeout=route.idle_timeout if route.idle_timeout is not None else policy.idle_timeout,
        retry=route.retry if route.retry is not None else policy.retry,
        fault=fault if fault is not None and is_meant(fault, host.caller) else None,
    )
    told = chosen.model_dump(mode="json", exclude_defaults=True)
    if route.rate_limit is not None:
        told["route_rate_limit"] = route.rate_limit.model_dump(mode="json", exclude_unset=True)
    text: str = yaml.safe_dump(told, sort_keys=True) if told else ""
    return text
