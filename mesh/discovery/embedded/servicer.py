"""RegistryService, as the control plane serves it to members and to operators."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

from agentmesh.registry.v1 import registry_service_pb2 as pb
from agentmesh.registry.v1 import registry_service_pb2_grpc
from mesh.discovery.embedded.record import duration_to_proto, instance_to_proto, record_from_proto
from mesh.discovery.embedded.registry import EmbeddedRegistry
from mesh.errors import FailedPrecondition, NotFound, PermissionDenied, Unauthenticated
from mesh.model import Instance, SpiffeId, check_service_name
from mesh.rpc import call_context
from mesh.telemetry import get_logger

_log = get_logger(__name__)


class Callers:
    """Whom a port lets in: members of a trust domain and namespace, each for its own service, or else operators."""

    def __init__(self, trust_domain: str = "", namespace: str = "") -> None:
        self._trust_domain = trust_domain
        self._namespace = namespace

    @property
    def are_members(self) -> bool:
        """Whether callers act for one service only."""
        return bool(self._trust_domain)

    def service(self) -> str:
        """The service of the caller at hand; "" for an operator. Raises Unauthenticated for a stranger."""
        if not self.are_members:
            return ""
        caller = call_context().caller
        if caller is None or caller != SpiffeId(self._trust_domain, self._namespace, caller.service):
            raise Unauthenticated(
                "The connection shows no identity of this mesh.",
                reason="NO_PEER_IDENTITY",
                fix="Connect with the certificate that the mesh has issued.",
            )
        return caller.service


class RegistryServicer(registry_service_pb2_grpc.RegistryServiceServicer):
    """Answers from `registry`; without one it says that the registry is Consul."""

    def __init__(self, registry: EmbeddedRegistry | None, callers: Callers, *, draining: asyncio.Event) -> None:
        self._maybe_registry = registry
        self._callers = callers
        self._draining = draining

    async def GetRegistry(self, request: pb.GetRegistryRequest, context: Any) -> pb.GetRegistryResponse:
        is_embedded = self._maybe_registry is not None
        return pb.GetRegistryResponse(kind=pb.REGISTRY_KIND_EMBEDDED if is_embedded else pb.REGISTRY_KIND_CONSUL)

    async def Register(self, request: pb.RegisterRequest, context: Any) -> pb.RegisterResponse:
        registry, record = self._registry, record_from_proto(request)
        check_service_name(record.instance.service, field="instance.service")
        self._check_service(record.instance.service, "instance.service")
        self._check_owner(record.instance.id, "instance.id")
        if self._callers.are_members:
            # Else the registry would knock wherever a member tells it to, and tell it who has answered.
            if not record.check.use_tls:
                raise PermissionDenied(
                    "A member is checked over mutual TLS only.", field="health_check.use_tls", reason="TLS_NEEDED"
                )
            if record.check.target.host != record.instance.address:
                raise PermissionDenied(
                    f"{record.check.target.host} is not the address of {record.instance.id}.",
                    field="health_check.host",
                    reason="WRONG_ADDRESS",
                    fix=f"Name {record.instance.address}, or nothing.",
                )
        await registry.register(record.instance, record.check, record.lease)
        return pb.RegisterResponse(lease=duration_to_proto(record.lease))

    async def RenewLease(self, request: pb.RenewLeaseRequest, context: Any) -> pb.RenewLeaseResponse:
        registry = self._registry
        self._check_owner(request.instance_id, "instance_id")
        record = registry.find(request.instance_id)
        if record is None or not await registry.renew(request.instance_id):
            raise NotFound(
                f"There is no instance {request.instance_id[:80]!r}.",
                reason="UNKNOWN_INSTANCE",
                field="instance_id",
                fix="Register it again.",
            )
        return pb.RenewLeaseResponse(lease=duration_to_proto(record.lease))

    async def Deregister(self, request: pb.DeregisterRequest, context: Any) -> pb.DeregisterResponse:
        registry = self._registry
        self._check_owner(request.instance_id, "instance_id")
        await registry.deregister(request.instance_id)
        return pb.DeregisterResponse()

    async def ListInstances(self, request: pb.ListInstancesRequest, context: Any) -> pb.ListInstancesResponse:
        registry, service = self._registry, self._scope(request.service)
        snapshot = await anext(aiter(registry.watch()))
        found = _select(snapshot.services.items(), service)
        if request.instance_id:
            found = [instance for instance in found if instance.id == request.instance_id]
        return pb.ListInstancesResponse(instances=[instance_to_proto(instance) for instance in found])

    async def WatchInstances(
        self, request: pb.WatchInstancesRequest, context: Any
    ) -> AsyncIterator[pb.WatchInstancesResponse]:
        registry, service = self._registry, self._scope(request.service)
        snapshots = aiter(registry.watch())
        draining = asyncio.ensure_future(self._draining.wait())
        told: list[Instance] | None = None
        try:
            while not draining.done():
                upcoming = asyncio.ensure_future(anext(snapshots))
                try:
                    await asyncio.wait((draining, upcoming), return_when=asyncio.FIRST_COMPLETED)
                    if not upcoming.done():
                        return
                    found = _select(upcoming.result().services.items(), service)
                finally:
                    upcoming.cancel()
                if found != told:
                    told = found
                    yield pb.WatchInstancesResponse(instances=[instance_to_proto(instance) for instance in found])
        finally:
            draining.cancel()

    @property
    def _registry(self) -> EmbeddedRegistry:
        if self._maybe_registry is None:
            raise FailedPrecondition(
                "The registry of this mesh is Consul.",
                reason="REGISTRY_IS_CONSUL",
                fix="Set CONSUL_HTTP_ADDR to its address.",
            )
        return self._maybe_registry

    def _scope(self, service: str) -> str:
        """The service whose instances the caller gets; "" for all."""
        if service:
            check_service_name(service)
            self._check_service(service, "service")
        return service or self._callers.service()

    def _check_service(self, service: str, field: str) -> None:
        own = self._callers.service()
        if own and service != own:
            _log.warning("registry_refused", caller=own, wanted=service)
            raise PermissionDenied(
                f"A member of {own} cannot act for {service}.",
                reason="WRONG_SERVICE",
                field=field,
                fix="Join with a token of that service.",
            )

    def _check_owner(self, instance_id: str, field: str) -> None:
        """An id that another service has is not the caller's to take, renew or remove."""
        known = self._registry.find(instance_id)
        if known is not None:
            self._check_service(known.instance.service, field)
        else:
            self._callers.service()


def _select(services: Iterable[tuple[str, tuple[Instance, ...]]], service: str) -> list[Instance]:
    return [instance for name, instances in services if name == service or not service for instance in instances]
