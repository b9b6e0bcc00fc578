"""What the mesh needs of a registry, whichever it is."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from mesh.model import Address, Instance


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """How a registry finds out whether an instance is healthy: grpc.health.v1 at `target`.

    `interval`, `timeout` and `deregister_after` are seconds. An instance that has failed its check for
    `deregister_after` is forgotten; Consul looks each 30 s and takes less than a minute as a minute. With `use_tls`
    Consul does not check the certificate of the instance: the check asks for health, it grants nothing.
    """

    target: Address
    use_tls: bool
    interval: float = 1.0
    timeout: float = 2.0
    deregister_after: float = 60.0


@dataclass(frozen=True, slots=True)
class RegistrySnapshot:
    """The registry at one moment.

    `services` maps a name to its instances, sorted by id, unhealthy ones included, never empty. While
    `is_available` is False it holds what was known last, and `error` says for a person what is wrong.
    """

    services: Mapping[str, tuple[Instance, ...]]
    is_available: bool
    error: str = ""


class Registry(Protocol):
    """A registry of instances.

    All methods but `watch` answer within seconds and raise MeshError: Unavailable when the registry is not there,
    PermissionDenied when it refuses, FailedPrecondition when what answers is no registry, InvalidInput when the
    instance cannot be written down.
    """

    async def register(self, instance: Instance, check: HealthCheck) -> None:
        """Add an instance, or replace the one with the same id. A new one is unhealthy until its first check."""
        ...

    async def renew(self, instance_id: str) -> bool:
        """Say that the instance lives, and tell whether the registry has it; False asks to register it again.

        To be called each few seconds: a registry with leases takes an instance out that it does not hear of.
        """
        ...

    async def deregister(self, instance_id: str) -> None:
        """Remove an instance; one that is not there is removed already."""
        ...

    async def is_registered(self, instance_id: str) -> bool:
        """Tell whether the registry knows the instance."""
        ...

    def watch(self) -> AsyncIterator[RegistrySnapshot]:
        """Give a snapshot at once and after every change, for ever. Never raises MeshError.

        Latest wins: a slow reader misses the snapshots between. While the registry is away or refuses, a snapshot
        says so, and the watch keeps trying.
        """
        ...
