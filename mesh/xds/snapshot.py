"""Everything that one proxy should have at one moment."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from mesh.errors import Internal
from mesh.xds import names
from mesh.xds.references import references_of
from mesh.xds.resources import Resource

ByName = Mapping[str, Resource]

_NOTHING: ByName = MappingProxyType({})
_serials = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Resources of one proxy, by type URL and name. `endpoint_clusters` are the clusters that need endpoints.

    A snapshot that was made from another one (`parent` is its `serial`) knows what has changed, so that nobody has to
    compare the two; `changed` holds names by type URL.
    """

    resources: Mapping[str, ByName]
    endpoint_clusters: frozenset[str] = frozenset()
    serial: int = field(default_factory=lambda: next(_serials), compare=False)
    parent: int = field(default=0, compare=False)
    changed: Mapping[str, frozenset[str]] = field(default_factory=dict, compare=False)

    def of(self, type_url: str) -> ByName:
        """The resources of one type."""
        return self.resources.get(type_url, _NOTHING)

    def with_endpoints(self, endpoints: ByName, changed: frozenset[str]) -> "Snapshot":
        """The same with other endpoints of the same clusters; `changed` are the clusters whose endpoints differ."""
        return Snapshot(
            {**self.resources, names.ENDPOINT: endpoints},
            self.endpoint_clusters,
            parent=self.serial,
            changed={names.ENDPOINT: changed},
        )

    def changes_since(self, before: "Snapshot") -> Mapping[str, frozenset[str]]:
        """The names of what is other than in `before`, added and removed ones included, by type URL."""
        if self.parent == before.serial:
            return self.changed
        urls = {*self.resources, *before.resources}
        found = {url: changed_names(before.of(url), self.of(url)) for url in urls}
        return {url: changed for url, changed in found.items() if changed}

    def check_consistent(self, known: "Snapshot | None" = None) -> None:
        """Raise Internal when a resource leads to one that is not there, and say which to which.

        What is the same in `known`, which is consistent, is not looked at again, unless something is gone.
        """
        if known is not None and any(found.keys() - self.of(url).keys() for url, found in known.resources.items()):
            known = None
        for url, by_name in self.resources.items():
            earlier = known.of(url) if known is not None else _NOTHING
            if earlier is not by_name:
                self._check(resource for name, resource in by_name.items() if earlier.get(name) is not resource)
        if missing := sorted(self.endpoint_clusters - self.of(names.CLUSTER).keys()):
            raise Internal(f"These clusters are missing: {', '.join(missing)}.", reason="SNAPSHOT_INCONSISTENT")

    def _check(self, resources: Iterable[Resource]) -> None:
        for resource in resources:
            for url, name in sorted(references_of(resource)):
                if name not in self.of(url):
                    raise Internal(
                        f"The {names.SHORT_NAMES[resource.type_url]} {resource.name!r} leads to the "
                        f"{names.SHORT_NAMES[url]} {name!r}, which there is not.",
                        reason="SNAPSHOT_INCONSISTENT",
                    )


EMPTY = Snapshot(MappingProxyType({}))


def changed_names(before: ByName, after: ByName) -> frozenset[str]:
    """The names whose resources differ, added and removed ones included."""
    if before is after:
        return frozenset()
    known = before.get
    changed = {name for name, resource in after.items() if (old := known(name)) is not resource and old != resource}
    return frozenset(changed | (before.keys() - after.keys()))


def build_snapshot(
    *resources: Resource,
    endpoints: ByName | None = None,
    endpoint_clusters: frozenset[str] = frozenset(),
    known: Snapshot = EMPTY,
) -> Snapshot:
    """A consistent snapshot of the given resources and `endpoints`; raises Internal when it is not.

    `known` is an earlier one of the same proxy: what has stayed the same is taken from there.
    """
    by_type: dict[str, dict[str, Resource]] = {}
    for resource in resources:
        by_type.setdefault(resource.type_url, {})[resource.name] = resource
    shared = {url: _shared(by_name, known.of(url)) for url, by_name in by_type.items()}
    if endpoints is not None:
        shared[names.ENDPOINT] = endpoints
    snapshot = Snapshot(MappingProxyType(shared), endpoint_clusters)
    snapshot.check_consistent(known)
    return snapshot


def _shared(by_name: dict[str, Resource], earlier: ByName) -> ByName:
    """The mapping of an earlier snapshot when it says the same."""
    return earlier if earlier and not changed_names(earlier, by_name) else MappingProxyType(by_name)
