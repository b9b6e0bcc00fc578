"""What the document means for each service: its own policy over the defaults, ready for the builders."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from types import MappingProxyType
from typing import Any

from mesh.config.document.models import Intention, MeshDocument, Service
from mesh.config.document.values import Secret, split_target

NamedIntentions = tuple[tuple[str, Intention], ...]
"""Intentions with their names, sorted by these."""


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one plain document over another: mappings merge, everything else is replaced."""
    merged = dict(below)
    for key, value in above.items():
        known = merged.get(key)
        merged[key] = merge(known, value) if isinstance(known, Mapping) and isinstance(value, Mapping) else value
    return merged


@dataclass(frozen=True)
class Policy:
    """A checked document, and the secrets that it refers to. Equal documents of one revision are one value.

    `revision` is the number under which it is in the history, 0 for none. `secrets` maps references to their values;
    it takes no part in comparison or representation, so `secrets_version` is to grow when one of them changes.
    """

    document: MeshDocument = field(default_factory=MeshDocument)
    revision: int = 0
    secrets_version: int = 0
    secrets: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False, compare=False)

    @cached_property
    def version(self) -> str:
        """A hash of the content: equal policies have equal versions, whatever their revision."""
        text = f"{self.secrets_version} {self.document.model_dump_json(exclude_unset=True)}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @cached_property
    def _services(self) -> Mapping[str, Service]:
        defaults = self.document.defaults.model_dump(exclude_unset=True)
        return {
            name: Service.model_validate(merge(defaults, service.model_dump(exclude_unset=True)))
            for name, service in self.document.services.items()
        }

    @cached_property
    def _default(self) -> Service:
        return Service.model_validate(self.document.defaults.model_dump(exclude_unset=True))

    def of(self, service: str) -> Service:
        """The policy of a service, defaults included; a service that the document does not name has the defaults."""
        return self._services.get(service, self._default)

    def value(self, value: str | Secret) -> str:
        """The text of a value; raises KeyError for a secret that was not resolved."""
        return self.secrets[value.secret] if isinstance(value, Secret) else value

    def reached_by(self, upstreams: Iterable[str]) -> tuple[str, ...]:
        """The targets (SERVICE or SERVICE/SUBSET) that calls to `upstreams` can end at, sorted, upstreams included."""
        found: set[str] = set()
        todo = list(upstreams)
        while todo:
            target = todo.pop()
            if target in found:
                continue
            found.add(target)
            service, subset = split_target(target)
            if not subset:
                todo.extend(targets_of(self.of(service)))
        return tuple(sorted(found))

    @cached_property
    def intentions_by_service(self) -> Mapping[str, NamedIntentions]:
        """Intentions by the called service; under "*" those that are about every one."""
        found: dict[str, list[tuple[str, Intention]]] = {}
        for named in sorted(self.document.intentions.items(), key=itemgetter(0)):
            for service in dict.fromkeys(named[1].services):
                found.setdefault(service, []).append(named)
        return {service: tuple(each) for service, each in found.items()}

    def intentions_for(self, service: str) -> NamedIntentions:
        """The intentions about calls to a service."""
        by_service = self.intentions_by_service
        return tuple(dict.fromkeys((*by_service.get(service, ()), *by_service.get("*", ()))))


def targets_of(service: Service) -> Iterable[str]:
    """Every target that the routes, the split and the fallback of a service name."""
    for route in service.routes:
        if route.to is not None:
            yield route.to
        yield from route.split
        if route.mirror is not None:
            yield route.mirror.to
    yield from service.split
    yield from service.fallback


EMPTY = Policy()
"""The policy of a mesh of which nothing has been said."""
