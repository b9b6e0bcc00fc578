"""What the mesh document means for the resources of proxies, worked out once per document and shared by all of them.

Policy ──> Blueprint ──> targets, clusters ──> which clusters and endpoints a caller needs
                    ├──> routes of its upstreams
                    └──> rules for the inbound side of a service
"""

from collections.abc import Iterable

from mesh.config.document import Policy, Secret, Service, split_target, targets_of
from mesh.model import Instance, SpiffeId
from mesh.xds import names
from mesh.xds.resources import Resource
from mesh.xds.resources.edge.routes import build_edge_routes, build_edge_service, methods_to_cache
from mesh.xds.resources.host import Host, Place
from mesh.xds.resources.inbound import InboundRules, limits_lead_to
from mesh.xds.resources.routes import (
    build_control_host,
    build_host,
    build_outbound_routes,
    build_service_routes,
    claim_domains,
)

Names = tuple[str, ...]


class Blueprint:
    """One policy, and what follows from it. Remembers what it was asked; belongs to one thread."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        mesh = policy.document.mesh
        self.collector = mesh.telemetry.collector
        self.sampling_percent = mesh.telemetry.sampling_percent if self.collector is not None else None
        self._targets: dict[Names, Names] = {}
        self._hosts: dict[tuple[str, str], Host] = {}
        self._domains: dict[tuple[Names, bool], dict[str, Names]] = {}
        self._outbound: dict[tuple[str, Names], Resource] = {}
        self._edge: dict[tuple[str, Names], Resource] = {}
        self._limited_by_others: dict[str, tuple[tuple[str, Service], ...]] | None = None

    def targets(self, upstreams: Names) -> Names:
        """Every target that calls to `upstreams` can end at, sorted, the upstreams themselves included.

        What the routes of an upstream lead to is a target as it is: its own routes are not followed, its fallbacks are.
        """
        known = self._targets.get(upstreams)
        if known is None:
            found = {*upstreams}
            for service in upstreams:
                found.update(targets_of(self.policy.of(service)))
            for target in tuple(found):
                found.update(self.fallbacks(target))
            known = self._targets[upstreams] = tuple(sorted(found))
        return known

    def fallbacks(self, target: str) -> Names:
        """Where requests to a target go when it has no healthy instance, in order; none for a subset."""
        found: list[str] = []

        def follow(service: str) -> None:
            for fallback in self.policy.of(service).fallback:
                if fallback not in (target, *found):
                    found.append(fallback)
                    if not split_target(fallback)[1]:
                        follow(fallback)

        if not split_target(target)[1]:
            follow(target)
        return tuple(found)

    def place(self, target: str) -> Place:
        """Where requests for a target go: to its cluster, or to the one that stands for it and its fallbacks."""
        service, _ = split_target(target)
        balancing = self.policy.of(service).load_balancing
        cluster = names.fallback_cluster_of(service) if self.fallbacks(target) else names.cluster_of(target)
        return Place(target, cluster, balancing.hash_on if balancing.policy in ("ring_hash", "maglev") else ())

    def host(self, service: str, caller: str) -> Host:
        """What routes for calls from `caller` to `service` are built from."""
        policy = self.policy.of(service)
        key = (service, caller if _depends_on_caller(policy) else "")
        known = self._hosts.get(key)
        if known is None:
            targets = sorted({service, *targets_of(policy)})
            known = self._hosts[key] = Host(
                service,
                policy,
                places=tuple(self.place(target) for target in targets),
                secrets=tuple((it, self.policy.secrets[it]) for it in _secrets_of(policy) if it in self.policy.secrets),
                caller=key[1],
                sampling_percent=self.sampling_percent,
            )
        return known

    def outbound_routes(self, service: str, upstreams: Names, *, is_gateway: bool = False) -> Resource:
        """The routes of the outbound listener of `service`; a gateway may call the control plane, too."""
        known = self._outbound.get((service, upstreams))
        if known is None:
            domains = self._domains_of(upstreams, is_edge=False)
            hosts = [
                build_host(name, domains[name], build_service_routes(self.host(name, service)))
                for name in sorted(upstreams)
            ]
            if is_gateway:
                hosts.append(build_control_host())
            known = self._outbound[service, upstreams] = build_outbound_routes(service, tuple(hosts))
        return known

    def edge_routes(self, service: str, upstreams: Names) -> Resource:
        """The routes of the edge of `service`."""
        known = self._edge.get((service, upstreams))
        if known is None:
            edge = self.policy.document.edge
            domains = self._domains_of(upstreams, is_edge=True)
            hosts: list[bytes] = []
            selected: list[bytes] = []
            for name in sorted(upstreams):
                host, cached = self.host(name, service), methods_to_cache(edge.cache, name)
                hosts.append(build_host(name, domains[name], build_edge_service(host, cached)))
                selected += build_edge_service(host, cached, is_selected=True)
            known = build_edge_routes(tuple(hosts), tuple(selected), edge.cors, self.sampling_percent)
            self._edge[service, upstreams] = known
        return known

    def _domains_of(self, upstreams: Names, *, is_edge: bool) -> dict[str, Names]:
        known = self._domains.get((upstreams, is_edge))
        if known is None:
            asked = ((name, self.policy.of(name).authorities) for name in upstreams)
            known = self._domains[upstreams, is_edge] = claim_domains(asked, is_edge=is_edge)
        return known

    def inbound_rules(self, identity: SpiffeId, revoked: frozenset[str]) -> InboundRules:
        """What holds for calls to the service of `identity`."""
        return InboundRules(
            identity,
            policy=self.policy.of(identity.service),
            intentions=self.policy.intentions_for(identity.service),
            is_default_deny=self.policy.document.mesh.default_intention == "deny",
            revoked=revoked,
            others=self._others_limited_at(identity.service),
            sampling_percent=self.sampling_percent,
        )

    def _others_limited_at(self, target: str) -> tuple[tuple[str, Service], ...]:
        if self._limited_by_others is None:
            limited = [
                (name, self.policy.of(name))
                for name, service in sorted(self.policy.document.services.items())
                if any(route.rate_limit is not None for route in service.routes)
            ]
            self._limited_by_others = {
                target: tuple((name, it) for name, it in limited if name != target and limits_lead_to(it, name, target))
                for target in {split_target(found)[0] for _, it in limited for found in targets_of(it)}
            }
        return self._limited_by_others.get(target, ())


def select(policy: Service, target: str, instances: Iterable[Instance]) -> tuple[Instance, ...]:
    """The instances of a target: all of a service, or those that its subset asks for; none of an unknown subset."""
    _, name = split_target(target)
    if not name:
        return tuple(instances)
    subset = policy.subsets.get(name)
    if subset is None:
        return ()
    return tuple(
        instance
        for instance in instances
        if subset.version in (None, instance.version)
        and all(instance.metadata.get(key) == value for key, value in subset.metadata.items())
    )


def _depends_on_caller(policy: Service) -> bool:
    faults = [policy.fault, *(route.fault for route in policy.routes)]
    return any(fault is not None and fault.callers for fault in faults)


def _secrets_of(policy: Service) -> tuple[str, ...]:
    """The references to secrets in the headers of a service's routes, sorted."""
    values = (
        value
        for route in policy.routes
        for edits in (route.headers.request, route.headers.response)
        for value in (*edits.set.values(), *edits.add.values())
    )
    return tuple(sorted({value.secret for value in values if isinstance(value, Secret)}))
