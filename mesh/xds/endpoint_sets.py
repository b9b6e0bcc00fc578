"""Endpoints, kept in step with the instances: built once per cluster and zone, gathered once per kind of caller."""

from collections.abc import Hashable, Iterator
from types import MappingProxyType
from typing import Generic, TypeVar

from mesh.model import Instance
from mesh.state import MeshState
from mesh.xds.blueprint import ClusterOf
from mesh.xds.resources import Resource
from mesh.xds.resources.endpoints import build_client_endpoints, build_endpoints
from mesh.xds.snapshot import ByName

_LEAST_KEPT = 64

_User = TypeVar("_User", bound=Hashable)


class EndpointSet:
    """The endpoints of some clusters, as callers in one zone see them. Shared by all proxies that need the same.

    `before` is the mapping that the last refresh replaced, and `changed` tells by cluster what it did. `stale` are
    services whose instances are others since then; `clusters_of` are the clusters of each service.
    """

    def __init__(self, clusters: tuple[ClusterOf, ...], zone: str, *, is_envoy: bool) -> None:
        self.clusters = clusters
        self.zone = zone
        self.is_envoy = is_envoy
        self.current: ByName = MappingProxyType({})
        self.before: ByName = self.current
        self.changed: frozenset[str] = frozenset()
        self.clusters_of: dict[str, list[str]] = {}
        for cluster, service in clusters:
            self.clusters_of.setdefault(service, []).append(cluster)
        self.stale = set(self.clusters_of)


class EndpointSets(Generic[_User]):
    """All endpoint sets that somebody uses. A user has one set at a time."""

    def __init__(self) -> None:
        self._sets: dict[tuple[tuple[ClusterOf, ...], str, bool], EndpointSet] = {}
        self._users: dict[EndpointSet, set[_User]] = {}
        self._of_service: dict[str, set[EndpointSet]] = {}
        self._set_of: dict[_User, EndpointSet] = {}
        self._built: dict[tuple[str, str, bool], tuple[tuple[Instance, ...], Resource]] = {}

    def use(self, user: _User, clusters: tuple[ClusterOf, ...], zone: str, *, is_envoy: bool) -> EndpointSet:
        """The set that `user` uses from now on, instead of any earlier one."""
        key = (clusters, zone, is_envoy)
        found = self._sets.get(key)
        if found is not None and self._set_of.get(user) is found:
            return found
        if found is None:
            found = self._sets[key] = EndpointSet(clusters, zone, is_envoy=is_envoy)
            self._users[found] = set()
            for service in found.clusters_of:
                self._of_service.setdefault(service, set()).add(found)
        self.release(user)
        self._users[found].add(user)
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
        del self._users[found], self._sets[(found.clusters, found.zone, found.is_envoy)]
        for service in found.clusters_of:
            sets = self._of_service[service]
            sets.discard(found)
            if not sets:
                del self._of_service[service]
        self._forget_unused()

    def users_of(self, service: str) -> Iterator[_User]:
        """Note that the instances of a service are others; gives whom it concerns."""
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
            instances = state.services.get(service, ())
            for cluster in endpoints.clusters_of[service]:
                resource = self._endpoints(cluster, instances, endpoints)
                if found.get(cluster) != resource:
                    found[cluster] = resource
                    changed.add(cluster)
        endpoints.stale.clear()
        if changed:
            endpoints.before, endpoints.current = endpoints.current, MappingProxyType(found)
            endpoints.changed = frozenset(changed)

    def _endpoints(self, cluster: str, instances: tuple[Instance, ...], endpoints: EndpointSet) -> Resource:
        key = (cluster, endpoints.zone, endpoints.is_envoy)
        known = self._built.get(key)
        if known is None or known[0] is not instances:
            build = build_endpoints if endpoints.is_envoy else build_client_endpoints
            known = self._built[key] = (instances, build(cluster, instances, zone=endpoints.zone))
        return known[1]

    def _forget_unused(self) -> None:
        """Names come and go; what is remembered must not grow for ever."""
        if len(self._built) <= 2 * sum(len(found.clusters) for found in self._sets.values()) + _LEAST_KEPT:
            return
        used = {(cluster, each.zone, each.is_envoy) for each in self._sets.values() for cluster, _ in each.clusters}
        self._built = {key: known for key, known in self._built.items() if key in used}
