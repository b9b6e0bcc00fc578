"""One moment of the mesh."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Self, TypeVar

from mesh.config.document import EMPTY, Policy
from mesh.model import Declaration, Instance, SpiffeId, TokenIssuer

_Value = TypeVar("_Value")

_MODULUS = 1 << 256


@dataclass(frozen=True)
class MeshState:
    """All services and declarations at one moment. Never changed; a new one is made instead.

    `services` maps a name to its instances, sorted by id; unhealthy ones are included. `declarations` maps a name to
    what an operator said about it. A service may be declared without having instances, and the other way round.
    `policy` is the mesh document. `revoked` are the services whose identities nobody accepts any more. `token_issuer`
    is the mesh's own issuer of tokens; None before its keys are known.

    A new state shares with the old one what did not change: who wants to know what did compares by identity.
    """

    trust_domain: str
    namespace: str = "default"
    services: Mapping[str, tuple[Instance, ...]] = field(default_factory=lambda: MappingProxyType({}))
    declarations: Mapping[str, Declaration] = field(default_factory=lambda: MappingProxyType({}))
    policy: Policy = EMPTY
    revoked: frozenset[str] = frozenset()
    token_issuer: TokenIssuer | None = None

    def with_services(self, services: Mapping[str, tuple[Instance, ...]]) -> Self:
        """This state with other services; itself when they mean the same. Costs what has changed."""
        kept, digest = _succeed(self.services, services, self._digest_of_services, _digest_of_service)
        if digest == self._digest_of_services:
            return self
        return self._succeeded(replace(self, services=kept), _digest_of_services=digest)

    def with_declarations(self, declarations: Mapping[str, Declaration]) -> Self:
        """This state with other declarations; itself when they mean the same. Costs what has changed."""
        kept, digest = _succeed(self.declarations, declarations, self._digest_of_declarations, _digest_of_declaration)
        if digest == self._digest_of_declarations:
            return self
        return self._succeeded(replace(self, declarations=kept), _digest_of_declarations=digest)

    def with_policy(self, policy: Policy) -> Self:
        """This state with another mesh document; itself when that means the same."""
        if policy is self.policy or policy.version == self.policy.version:
            return self
        return self._succeeded(replace(self, policy=policy))

    def with_revoked(self, services: frozenset[str]) -> Self:
        """This state with other revoked identities; itself when they are the same."""
        return self if services == self.revoked else self._succeeded(replace(self, revoked=services))

    def with_token_issuer(self, issuer: TokenIssuer) -> Self:
        """This state with another token issuer; itself when it is the same."""
        return self if issuer == self.token_issuer else self._succeeded(replace(self, token_issuer=issuer))

    def spiffe_id(self, service: str) -> SpiffeId:
        """The identity of a service in this mesh."""
        return SpiffeId(self.trust_domain, self.namespace, service)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Every service that is known, declared or in the mesh document, sorted."""
        return tuple(sorted({*self.joined, *self.policy.document.services}))

    @property
    def joined(self) -> frozenset[str]:
        """Every service that is registered or declared, whatever the mesh document says."""
        return frozenset({*self.services, *self.declarations})

    def upstreams_of(self, service: str) -> tuple[str, ...]:
        """The services that `service` may call, sorted, never itself or a revoked one; none when it is not declared."""
        declared = self.policy.document.services.get(service)
        if declared is not None and declared.upstreams is not None:
            upstreams = declared.upstreams
        elif (declaration := self.declarations.get(service)) is not None:
            upstreams = declaration.upstreams
        else:
            return ()
        allowed = self.names if "*" in upstreams else upstreams
        left_out = {service, "*", *self.revoked}
        return tuple(sorted({name for name in allowed if name not in left_out}))

    @cached_property
    def version(self) -> str:
        """A hash of the content: equal states have equal versions, whichever way they came about."""
        facts = (
            self.trust_domain,
            self.namespace,
            self.policy.version,
            sorted(self.revoked),
            self.token_issuer,
            self._digest_of_services,
            self._digest_of_declarations,
        )
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

    @cached_property
    def _digest_of_services(self) -> int:
        return _digest(self.services, _digest_of_service)

    @cached_property
    def _digest_of_declarations(self) -> int:
        return _digest(self.declarations, _digest_of_declaration)

    def _succeeded(self, successor: Self, **digests: int) -> Self:
        """The successor with the digests that are known already; a cached_property lives in the instance's dict."""
        known = {name: value for name, value in vars(self).items() if name.startswith("_digest_of_")}
        vars(successor).update(known | digests)
        return successor


def changed_keys(before: Mapping[str, _Value], after: Mapping[str, _Value]) -> set[str]:
    """The keys whose values are other objects, added and removed ones included."""
    if before is after:
        return set()
    known = before.get
    return {key for key, value in after.items() if known(key) is not value} | (before.keys() - after.keys())


def _succeed(
    before: Mapping[str, _Value],
    after: Mapping[str, _Value],
    digest: int,
    digest_of: Callable[[str, _Value], int],
) -> tuple[Mapping[str, _Value], int]:
    """`after`, with the objects of `before` where they are equal, and its digest."""
    kept = dict(after)
    for name in changed_keys(before, after):
        old, new = before.get(name), after.get(name)
        if old is not None and old == new:
            kept[name] = old
            continue
        digest -= digest_of(name, old) if old is not None else 0
        digest += digest_of(name, new) if new is not None else 0
    return MappingProxyType(kept), digest % _MODULUS


def _digest(values: Mapping[str, _Value], digest_of: Callable[[str, _Value], int]) -> int:
    """A sum of hashes, so that a change of one entry costs one entry, in whatever order they came."""
    return sum(digest_of(name, value) for name, value in values.items()) % _MODULUS


def _digest_of_service(name: str, instances: tuple[Instance, ...]) -> int:
    return _number((name, *map(_facts, instances)))


def _digest_of_declaration(name: str, declaration: Declaration) -> int:
    return _number((name, declaration.kind, declaration.upstreams))


def _number(facts: tuple[object, ...]) -> int:
    return int.from_bytes(hashlib.sha256(repr(facts).encode()).digest())


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
