"""The registry that this control plane follows: Consul, or the one that it keeps itself."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from agentmesh.registry.v1 import registry_service_pb2, registry_service_pb2_grpc
from mesh.config import MeshSettings
from mesh.discovery import ConsulEndpoint, ConsulRegistry, Registry
from mesh.discovery.embedded import (
    Callers,
    EmbeddedRegistry,
    RegistryServicer,
    open_embedded_registry,
    probe_opener,
)
from mesh.errors import InvalidInput
from mesh.identity import CertificateAuthority, ClientTls
from mesh.model import SpiffeId
from mesh.rpc import Service
from services.control_plane.reserved_names import REGISTRY


@dataclass(frozen=True, slots=True)
class OpenRegistry:
    """The registry, what kind it is ("consul" or "embedded") and where, and the services that let others use it.

    `consul` is Consul itself, None when the registry is our own.
    """

    registry: Registry
    kind: str
    address: str
    for_members: Service
    for_operators: Service
    consul: ConsulEndpoint | None = None


@asynccontextmanager
async def open_registry(
    settings: MeshSettings, authority: CertificateAuthority, draining: asyncio.Event
) -> AsyncIterator[OpenRegistry]:
    """The registry of the settings; "auto" is Consul when one is given. Raises what open_embedded_registry raises."""

    def describe(
        registry: Registry, kind: str, address: str, own: EmbeddedRegistry | None, at: ConsulEndpoint | None = None
    ) -> OpenRegistry:
        members = Callers(settings.trust_domain, settings.namespace)
        return OpenRegistry(
            registry,
            kind,
            address,
            for_members=_service(RegistryServicer(own, members, draining=draining)),
            for_operators=_service(RegistryServicer(own, Callers(), draining=draining)),
            consul=at,
        )

    if settings.registry == "consul" or (settings.registry == "auto" and settings.consul_is_given):
        consul = ConsulRegistry(settings.consul, token=settings.consul_token, scheme=settings.consul_scheme)
        yield describe(consul, "consul", str(settings.consul), None, consul.endpoint)
        return
    _check_alone(settings)
    # The identity that sidecars let check health and do nothing else, whichever registry it is.
    checker = SpiffeId(settings.trust_domain, settings.namespace, REGISTRY)
    identity = ClientTls(authority, checker, lifetime=settings.certificate_lifetime)
    async with open_embedded_registry(settings.registry_file, open_probe=probe_opener(identity)) as own:
        yield describe(own, "embedded", str(settings.control_advertise), own)


def _check_alone(settings: MeshSettings) -> None:
    if len(settings.control_planes) > 1:
        raise InvalidInput(
            "Several control planes cannot share an embedded registry.",
            field="MESH_CONTROL_PLANES",
            fix="Name one control plane, or give them a Consul with CONSUL_HTTP_ADDR.",
        )


def _service(servicer: RegistryServicer) -> Service:
    return Service(
        registry_service_pb2.DESCRIPTOR.services_by_name["RegistryService"],
        lambda server: registry_service_pb2_grpc.add_RegistryServiceServicer_to_server(servicer, server),
    )
