"""Endpoints, kept in step with the instances: built once per cluster and zone, gathered once per kind of caller."""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Generic, TypeVar

from mesh.config.document import Policy, split_target
from mesh.model import Instance
from mesh.state import MeshState
from mesh.xds.blueprint import Names, select
from mesh.xds.names import cluster_of
from mesh.xds.resources import Resource
from mesh.xds.resources.endpoints import build_client_endpoints, build_endpoints
from mesh.xds.snapshot import ByName

_LEAST_KEPT = 64

_User = TypeVar("_User", bound=Hashable)


class EndpointSet:
    """The endpoints of some targets, as callers in one zone see them. Shared by all proxies that need the same.

    `before` is the mapping that the last refresh replaced, and `changed` tells by cluster what it did. `stale` are
    services whose instances are others since then; `targets_of` are the targets of each service.
    """

    def __init__(self, targets: Names, zone: str, *, is_envoy: bool) -> None:
        self.targets = targets
        self.zone = zone
        self.is_envoy = is_envoy
        self.current: ByName = MappingProxyType({})
        self.before: ByName = self.current
        self.changed: frozenset[str] = frozenset()
        self.targets_of: dict[str, list[str]] = {}
        for target in targets:
            self.targets_of.setdefault(split_target(target)[0], []).append(target)
        self.stale = set(self.targets_of)


@dataclass(frozen=True, slots=True)
class _Built:
    """Built endpoints and what they were built from; `policy` is that which says what a subset is."""

    instances: tuple[Instance, ...]
    policy: Policy | None
    resource: Resource


class EndpointSets(Generic[_User]):
    """All endpoint sets that somebody uses. A user has one set at a time."""

    def __init__(self) -> None:
        self._sets: dict[tuple[Names, str, bool], EndpointSet] = {}
        self._users: dict[EndpointSet, set[_User]] = {}
        self._of_service: dict[str, set[EndpointSet]] = {}
        self._set_of: dict[_User, EndpointSet] = {}
        self._built: dict[tuple[str, str, bool], _Built] = {}

    @property
    def services(self) -> tuple[str, ...]:
        """The services that somebody needs endpoints of."""
        return tuple(self._of_service)

    def use(self, user: _User, targets: Names, zone: str, *, is_envoy: bool) -> EndpointSet:
        """The set that `user` uses from now on, instead of any earlier one."""
        key = (targets, zone, is_envoy)
        found = self._sets.get(key)
        if found is not None and self._set_of.get(user) is found:
            return found
        if found is None:
            found = self._sets[key] = EndpointSet(targets, zone, is_envoy=is_envoy)
            self._users[found] = set()
            for service in found.targets_of:
                self._of_service.setdefault(service, set()).add(found)
        # Before the earlier one is released, or the last user of a set would drop it to make it anew.
        self._users[found].add(user)
        self.release(user)
        self._set_of[user] = found
        return found

    def release(self, user: _User) -> None:
        """`user` needs no endpoints any more."""
        found = self._set_of.pop(user, None)
        if found is None:
            return
        users = self._users[found]
        users.discard(user)
        if users:
            return
        del self._users[found], self._sets[(found.targets, found.zone, found.is_envoy)]
        for service in found.targets_of:
            sets = self._of_service[service]
            sets.discard(found)
            if not sets:
                del self._of_service[service]
        self._forget_unused()

    def note_changed(self, service: str) -> Iterator[_User]:
        """The instances of a service are others; gives whom it concerns, to be asked until the end."""
        for found in self._of_service.get(service, ()):
            found.stale.add(service)
            yield from self._users[found]

    def refresh(self, endpoints: EndpointSet, state: MeshState) -> None:
        """Bring a set up to date; costs what has changed, and a copy of its mapping."""
        if not endpoints.stale:
            return
        found = dict(endpoints.current)
        changed: set[str] = set()
        for service in endpoints.stale:
            for target in endpoints.targets_of[service]:
                resource = self._kept(state, target, service, endpoints)
                if found.get(resource.name) != resource:
                    found[resource.name] = resource
                    changed.add(resource.name)
        endpoints.stale.clear()
        if changed:
            endpoints.before, endpoints.current = endpoints.current, MappingProxyType(found)
            endpoints.changed = frozenset(changed)

    def build(self, state: MeshState, target: str, zone: str, *, is_envoy: bool) -> Resource:
        """The endpoints of one target. Those of a whole service are taken from what is known."""
        service, subset = split_target(target)
        instances = state.services.get(service, ())
        known = self._built.get((target, zone, is_envoy))
        if known is not None and not subset and known.instances is instances:
            return known.resource
        chosen = select(state.policy.of(service), target, instances)
        return (build_endpoints if is_envoy else build_client_endpoints)(cluster_of(target), chosen, zone=zone)

    def _kept(self, state: MeshState, target: str, service: str, endpoints: EndpointSet) -> Resource:
        instances = state.services.get(service, ())
        policy = state.policy if target != service else None
        key = (target, endpoints.zone, endpoints.is_envoy)
        known = self._built.get(key)
        if known is None or known.instances is not instances or known.policy is not policy:
            resource = self.build(state, target, endpoints.zone, is_envoy=endpoints.is_envoy)
            known = self._built[key] = _Built(instances, policy, resource)
        return known.resource

    def _forget_unused(self) -> None:
        """Names come and go; what is remembered must not grow for ever."""
        if len(self._built) <= 2 * sum(len(found.targets) for found in self._sets.values()) + _LEAST_KEPT:
            return
        used = {(target, each.zone, each.is_envoy) for each in self._sets.values() for target in each.targets}
        self._built = {key: known for key, known in self._built.items() if key in used}
