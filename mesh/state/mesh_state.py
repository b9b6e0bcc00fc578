"""One moment of the mesh."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

from mesh.config.document import EMPTY, Policy
from mesh.model import Declaration, Instance, SpiffeId


@dataclass(frozen=True)
class MeshState:
    """All services and declarations at one moment. Never changed; a new one is made instead.

    `services` maps a name to its instances, sorted by id; unhealthy ones are included. `declarations` maps a name to
    what an operator said about it. A service may be declared without having instances, and the other way round.
    `policy` is the mesh document. `revoked` are the services whose identities nobody accepts any more.
    """

    trust_domain: str
    namespace: str = "default"
    services: Mapping[str, tuple[Instance, ...]] = field(default_factory=lambda: MappingProxyType({}))
    declarations: Mapping[str, Declaration] = field(default_factory=lambda: MappingProxyType({}))
    policy: Policy = EMPTY
    revoked: frozenset[str] = frozenset()

    def spiffe_id(self, service: str) -> SpiffeId:
        """The identity of a service in this mesh."""
        return SpiffeId(self.trust_domain, self.namespace, service)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Every service that is known, declared or in the mesh document, sorted."""
        return tuple(sorted({*self.services, *self.declarations, *self.policy.document.services}))

    def upstreams_of(self, service: str) -> tuple[str, ...]:
        """The services that `service` may call, sorted, never itself; none when it has not been declared."""
        declared = self.policy.document.services.get(service)
        if declared is not None and declared.upstreams is not None:
            upstreams = declared.upstreams
        elif (declaration := self.declarations.get(service)) is not None:
            upstreams = declaration.upstreams
        else:
            return ()
        allowed = self.names if "*" in upstreams else upstreams
        return tuple(sorted({name for name in allowed if name not in {service, "*"}}))

    @cached_property
    def version(self) -> str:
        """A hash of the content: equal states have equal versions."""
        facts = (
            self.trust_domain,
            self.namespace,
            self.policy.version,
            sorted(self.revoked),
            self._facts_of_services(),
            self._facts_of_declarations(),
        )
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

    def _facts_of_services(self) -> list[tuple[object, ...]]:
        return [
            (name, tuple((*_facts(instance),) for instance in self.services[name])) for name in sorted(self.services)
        ]

    def _facts_of_declarations(self) -> list[tuple[object, ...]]:
        return [(name, d.kind, d.upstreams) for name, d in sorted(self.declarations.items())]


def _facts(instance: Instance) -> tuple[object, ...]:
    return (
        instance.id,
        instance.address,
        instance.port,
        instance.kind,
        instance.version,
        instance.protocol,
        instance.capabilities,
        tuple(sorted(instance.metadata.items())),
        instance.is_healthy,
    )
