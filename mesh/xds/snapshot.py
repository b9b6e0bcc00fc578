"""Everything that one proxy should have at one moment."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mesh.errors import Internal
from mesh.xds import names
from mesh.xds.references import references_of
from mesh.xds.resources import Resource

ByName = Mapping[str, Resource]

_NOTHING: ByName = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Resources of one proxy, by type URL and name. `endpoint_clusters` are the clusters that need endpoints."""

    resources: Mapping[str, ByName]
    endpoint_clusters: frozenset[str] = frozenset()

    def of(self, type_url: str) -> ByName:
        """The resources of one type."""
        return self.resources.get(type_url, _NOTHING)

    def check_consistent(self) -> None:
        """Raise Internal when a resource leads to one that is not there, and say which to which."""
        for by_name in self.resources.values():
            for resource in by_name.values():
                for url, name in sorted(references_of(resource)):
                    if name not in self.of(url):
                        raise Internal(
                            f"The {names.SHORT_NAMES[resource.type_url]} {resource.name!r} leads to the "
                            f"{names.SHORT_NAMES[url]} {name!r}, which there is not.",
                            reason="SNAPSHOT_INCONSISTENT",
                        )
        if missing := sorted(self.endpoint_clusters - set(self.of(names.CLUSTER))):
            raise Internal(f"These clusters are missing: {', '.join(missing)}.", reason="SNAPSHOT_INCONSISTENT")


EMPTY = Snapshot(MappingProxyType({}))


def build_snapshot(*resources: Resource, endpoint_clusters: frozenset[str] = frozenset()) -> Snapshot:
    """A consistent snapshot of the given resources; raises Internal when it is not."""
    by_type: dict[str, dict[str, Resource]] = {}
    for resource in resources:
        by_type.setdefault(resource.type_url, {})[resource.name] = resource
    snapshot = Snapshot(
        MappingProxyType({url: MappingProxyType(found) for url, found in by_type.items()}), endpoint_clusters
    )
    snapshot.check_consistent()
    return snapshot
