"""ControlService: what operators see and do."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import datetime, timedelta
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

import mesh
from agentmesh.control.v1 import control_pb2, control_service_pb2, control_service_pb2_grpc
from mesh.config import DeclarationStore, MeshSettings
from mesh.errors import FailedPrecondition, InvalidInput
from mesh.identity import CertificateAuthority, JoinTokens
from mesh.model import Declaration, Instance, check_service_name
from mesh.state import MeshState, StateStore
from mesh.telemetry import get_logger
from mesh.xds import AdsServer, ProxyStatus, TypeStatus
from services.control_plane.open_registry import OpenRegistry
from services.control_plane.registry_follower import RegistryFollower
from services.control_plane.replicas import Replicas
from services.control_plane.reserved_names import check_declarable, check_joinable

DEFAULT_TOKEN_LIFETIME = timedelta(minutes=10)
LONGEST_TOKEN_LIFETIME = timedelta(hours=24)

_log = get_logger(__name__)


class ControlServicer(control_service_pb2_grpc.ControlServiceServicer):
    """Answers from the live parts of the control plane; keeps nothing of its own."""

    def __init__(
        self,
        settings: MeshSettings,
        *,
        authority: CertificateAuthority,
        tokens: JoinTokens,
        declarations: DeclarationStore,
        store: StateStore,
        registry: OpenRegistry,
        follower: RegistryFollower,
        ads: AdsServer,
        started: datetime,
        draining: asyncio.Event,
        replicas: Replicas,
    ) -> None:
        self._settings = settings
        self._authority = authority
        self._tokens = tokens
        self._declarations = declarations
        self._store = store
        self._registry = registry
        self._follower = follower
        self._ads = ads
        self._started = started
        self._draining = draining
        self._replicas = replicas

    async def GetMesh(
        self, request: control_service_pb2.GetMeshRequest, context: grpc.ServicerContext
    ) -> control_service_pb2.GetMeshResponse:
        status = self._follower.status
        return control_service_pb2.GetMeshResponse(
            version=mesh.__version__,
            trust_domain=self._settings.trust_domain,
            start_time=_timestamp(self._started),
            registry=self._registry.kind,
            registry_address=self._registry.address,
            registry_available=status.is_available,
            registry_error=status.error,
            state_version=self._store.current.version,
            control_address=str(self._settings.control_advertise),
            enrolment_address=str(self._settings.enrolment_advertise),
            leader=self._replicas.leadership.leader,
            control_planes=self._replicas.leadership.peers,
        )

    async def ListServices(
        self, request: control_service_pb2.ListServicesRequest, context: grpc.ServicerContext
    ) -> control_service_pb2.ListServicesResponse:
        return control_service_pb2.ListServicesResponse(services=services_to_proto(self._store.current))

    async def WatchServices(
        self, request: control_service_pb2.WatchServicesRequest, context: grpc.ServicerContext
    ) -> AsyncIterator[control_service_pb2.WatchServicesResponse]:
        states = aiter(self._store.watch())
        draining = asyncio.ensure_future(self._draining.wait())
        try:
            while (state := await _next_unless(draining, states)) is not None:
                yield control_service_pb2.WatchServicesResponse(services=services_to_proto(state))
        finally:
            draining.cancel()

    async def ListProxies(
        self, request: control_service_pb2.ListProxiesRequest, context: grpc.ServicerContext
    ) -> control_service_pb2.ListProxiesResponse:
        proxies = sorted(self._ads.proxies(), key=lambda proxy: (proxy.node_id, proxy.connect_time))
        return control_service_pb2.ListProxiesResponse(proxies=[proxy_to_proto(proxy) for proxy in proxies])

    async def ListCertificates(
        self, request: control_service_pb2.ListCertificatesRequest, context: grpc.ServicerContext
    ) -> control_service_pb2.ListCertificatesResponse:
        issued = sorted(self._authority.issued(), key=lambda signed: (str(signed.spiffe_id), signed.issue_time))
        return control_service_pb2.ListCertificatesResponse(
            certificates=[
                control_pb2.Certificate(
                    spiffe_id=str(signed.spiffe_id),
                    serial=signed.serial,
                    issue_time=_timestamp(signed.issue_time),
                    expire_time=_timestamp(signed.expire_time),
                    reason=signed.reason,
                )
                for signed in issued
            ]
        )

    async def DeclareService(
        self, request: control_service_pb2.DeclareServiceRequest, context: grpc.ServicerContext
    ) -> control_service_pb2.DeclareServiceResponse:
        # As it was given first, so that an error names the place in the request.
        check_declarable(Declaration(request.name, request.kind, tuple(request.upstreams)))
        _check_kind(self._store.current.services.get(request.name, ()), request)
        declaration = Declaration(request.name, request.kind, tuple(sorted(set(request.upstreams))))
        self._declarations.declare(declaration)
        self._store.set_declarations(self._declarations.declarations)
        self._replicas.declared(request.name)
        _log.info(
            "service_declared", declared=request.name, kind=request.kind, upstreams=",".join(declaration.upstreams)
        )
        return control_service_pb2.DeclareServiceResponse()

    async def ForgetService(
        self, request: control_service_pb2.ForgetServiceRequest, context: grpc.ServicerContext
    ) -> control_service_pb2.ForgetServiceResponse:
        check_service_name(request.name, field="name")
        instances = self._store.current.services.get(request.name, ())
        if instances:
            raise FailedPrecondition(
                f"{request.name} still has instances: {', '.join(instance.id for instance in instances[:3])}.",
                reason="HAS_INSTANCES",
                field="name",
                fix="Stop them first; what has died is forgotten by the registry after a minute.",
            )
        self._declarations.forget(request.name)
        self._store.set_declarations(self._declarations.declarations)
        self._replicas.declared(request.name)
        _log.info("service_forgotten", forgotten=request.name)
        return control_service_pb2.ForgetServiceResponse()

    async def CreateJoinToken(
        self, request: control_service_pb2.CreateJoinTokenRequest, context: grpc.ServicerContext
    ) -> control_service_pb2.CreateJoinTokenResponse:
        check_service_name(request.service)
        check_joinable(request.service, self._declarations.declarations.get(request.service))
        self._authority.revocations.check(request.service)
        lifetime = _lifetime_of(request)
        token, expire_time = self._tokens.create(request.service, lifetime, fingerprint=self._authority.fingerprint)
        _log.info("join_token_created", for_service=request.service, expires=expire_time.isoformat())
        return control_service_pb2.CreateJoinTokenResponse(token=token, expire_time=_timestamp(expire_time))


def _check_kind(instances: Iterable[Instance], request: control_service_pb2.DeclareServiceRequest) -> None:
    """Raise FailedPrecondition when the service lives as another kind: its callers would not know it again."""
    others = [instance for instance in instances if instance.is_healthy and instance.kind != request.kind]
    if others:
        raise FailedPrecondition(
            f"{request.name} runs as kind {others[0].kind} ({others[0].id}), so it cannot be of kind {request.kind}.",
            reason="KIND_IN_USE",
            field="kind",
            fix="Choose another name, or stop what runs under this one.",
        )


def _lifetime_of(request: control_service_pb2.CreateJoinTokenRequest) -> timedelta:
    if not request.HasField("lifetime"):
        return DEFAULT_TOKEN_LIFETIME
    try:
        # Not ToTimedelta: a Duration holds more than a timedelta, and says so with an OverflowError.
        lifetime = timedelta(seconds=request.lifetime.seconds, microseconds=request.lifetime.nanos // 1000)
    except OverflowError:
        lifetime = timedelta.max
    if not timedelta(0) < lifetime <= LONGEST_TOKEN_LIFETIME:
        raise InvalidInput(
            f"A join token cannot live for {request.lifetime.seconds} s.",
            field="lifetime",
            fix="Ask for more than 0 s and at most 24 h.",
        )
    return lifetime


async def _next_unless(stop: asyncio.Future[Any], states: AsyncIterator[MeshState]) -> MeshState | None:
    """The next state, or None when `stop` is done first."""
    upcoming = asyncio.ensure_future(anext(states))
    try:
        await asyncio.wait((stop, upcoming), return_when=asyncio.FIRST_COMPLETED)
        return upcoming.result() if upcoming.done() and not stop.done() else None
    finally:
        upcoming.cancel()


def services_to_proto(state: MeshState) -> list[control_pb2.Service]:
    """All services of a state, sorted by name."""
    return [_service_to_proto(state, name) for name in state.names]


def _service_to_proto(state: MeshState, name: str) -> control_pb2.Service:
    instances = state.services.get(name, ())
    declaration = state.declarations.get(name)
    kinds = [declaration.kind] if declaration else [instance.kind for instance in instances]
    return control_pb2.Service(
        name=name,
        kind=kinds[0] if kinds else "service",
        instances=[_instance_to_proto(instance) for instance in instances],
        upstreams=declaration.upstreams if declaration else (),
    )


def _instance_to_proto(instance: Instance) -> control_pb2.Instance:
    return control_pb2.Instance(
        id=instance.id,
        address=instance.address,
        port=instance.port,
        version=instance.version,
        protocol=instance.protocol,
        capabilities=instance.capabilities,
        healthy=instance.is_healthy,
        health_output="" if instance.is_healthy else instance.health_output,
    )


def proxy_to_proto(proxy: ProxyStatus) -> control_pb2.Proxy:
    """A proxy as operators see it."""
    return control_pb2.Proxy(
        node_id=proxy.node_id,
        spiffe_id=str(proxy.spiffe_id),
        service=proxy.service,
        protocol=proxy.protocol,
        connect_time=_timestamp(proxy.connect_time),
        user_agent=proxy.user_agent,
        resources=[_resources_to_proto(status) for status in proxy.resources],
    )


def _resources_to_proto(status: TypeStatus) -> control_pb2.ProxyResources:
    return control_pb2.ProxyResources(
        type=status.type,
        subscribed=status.subscribed,
        sent_version=status.sent_version,
        acked_version=status.acked_version,
        ack_time=_timestamp(status.ack_time),
        nack_message=status.nack_message,
        nack_time=_timestamp(status.nack_time),
        held_back=status.held_back,
        send_time=_timestamp(status.sent_time),
        waiting=status.is_waiting,
    )


def _timestamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
