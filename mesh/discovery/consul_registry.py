"""Consul as the registry of the mesh."""

from collections.abc import AsyncIterator

from mesh.discovery.consul_client import ConsulEndpoint, open_consul
from mesh.discovery.consul_codec import build_check, build_meta, build_tags
from mesh.discovery.consul_watch import watch_consul
from mesh.discovery.registry import HealthCheck, RegistrySnapshot
from mesh.model import Address, Instance, check_service_name


class ConsulRegistry:
    """A Registry over the HTTP API of a Consul agent, 1.8 or newer.

    It holds no connection and needs no closing: each call opens its own, and so does each watch for as long as it
    lasts. Members register at the agent that `address` names, and that agent runs their checks.
    """

    def __init__(self, address: Address, *, token: str = "", scheme: str = "http") -> None:
        self._endpoint = ConsulEndpoint(address, token, scheme)

    @property
    def endpoint(self) -> ConsulEndpoint:
        """Where Consul is."""
        return self._endpoint

    async def register(self, instance: Instance, check: HealthCheck) -> None:
        """Add or replace an instance. A new one is critical until Consul's first check of it.

        Consul runs the first check at a random moment of the first interval, and takes no interval below 1 s; with
        1 s an instance is passing 0.5 s after its registration in the mean. An instance that is replaced keeps its
        health until its next check.
        """
        check_service_name(instance.service)
        definition = {
            "service_id": instance.id,
            "address": instance.address,
            "port": instance.port,
            "tags": build_tags(instance),
            "meta": build_meta(instance),
            "check": build_check(instance, check),
        }
        async with open_consul(self._endpoint) as client:
            await client.register(instance.service, **definition)

    async def renew(self, instance_id: str) -> bool:
        """Tell whether the agent knows the instance; there are no leases, its checks are the sign of life."""
        return await self.is_registered(instance_id)

    async def deregister(self, instance_id: str) -> None:
        """Remove an instance from the agent and so from the catalog."""
        async with open_consul(self._endpoint) as client:
            await client.deregister(instance_id)

    async def is_registered(self, instance_id: str) -> bool:
        """Tell whether the agent knows the instance."""
        async with open_consul(self._endpoint) as client:
            return await client.is_registered(instance_id)

    def watch(self) -> AsyncIterator[RegistrySnapshot]:
        """Follow all members of the mesh; see Registry.watch."""
        return watch_consul(lambda: open_consul(self._endpoint))
