"""What a rollout needs of others."""

from collections.abc import Collection
from typing import Protocol

from mesh.config.document import Policy
from mesh.xds import Answer, ProxyStatus
from mesh.xds.rollout import Changed
from mesh.xds.snapshot import Snapshot
from services.control_plane.document_reader import Reading


class Proxies(Protocol):
    """The part of AdsServer that is needed here."""

    def proxies(self) -> tuple[ProxyStatus, ...]:
        """All connected proxies."""
        ...

    def preview(self, node_id: str, policy: Policy) -> Snapshot | None:
        """What a proxy would get by another policy; raises MeshError when it cannot be built."""
        ...

    def has_taken(self, node_id: str, changed: Changed) -> bool | None:
        """Whether a proxy has acknowledged these versions; None when it is not connected."""
        ...

    def refusals(self) -> tuple[Answer, ...]:
        """What the proxies have refused and would not be sent again."""
        ...

    def refresh(self) -> None:
        """Offer every proxy what it should have now."""
        ...


class ErrorRates(Protocol):
    """How well requests go, as the proxies report."""

    def error_percent(self, node_ids: Collection[str], since: float) -> float | None:
        """Share of failed requests of these proxies since then (time.monotonic), None without any request."""
        ...


class Secrets(Protocol):
    """Where the values of secrets come from."""

    async def complete(self, reading: Reading) -> Reading:
        """The reading with the values of its secrets; raises DocumentInvalid when one has none."""
        ...
