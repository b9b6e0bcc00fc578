"""Wires the control plane."""

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime

from agentmesh.config.v1 import config_service_pb2, config_service_pb2_grpc
from agentmesh.control.v1 import control_service_pb2, control_service_pb2_grpc
from agentmesh.identity.v1 import identity_service_pb2, identity_service_pb2_grpc
from mesh.access.issuer import AccessStores, TokenIssuer
from mesh.config import DeclarationStore, MeshSettings
from mesh.discovery import Leadership
from mesh.errors import InvalidInput
from mesh.identity import CertificateAuthority, IdentityServicer, JoinTokens, open_server_credentials
from mesh.model import SpiffeId
from mesh.rpc import ServerSettings, Service, open_server
from mesh.runtime import Stop, keep_heap
from mesh.state import MeshState, StateStore
from mesh.telemetry import get_logger
from mesh.xds import AdsServer, LoadReports, LoadReportServer, subset_clusters
from services.control_plane.access_keeper import AccessKeeper
from services.control_plane.access_service import access_service
from services.control_plane.authority_service import authority_service, keep_authority
from services.control_plane.canary import open_canaries
from services.control_plane.config_access import Access, access_by_certificate, access_by_socket
from services.control_plane.config_service import LONGEST_WAIT, ConfigParts, ConfigServicer
from services.control_plane.control_service import ControlServicer
from services.control_plane.gateway_service import GatewayServicer, gateway_service
from services.control_plane.live_document import LiveDocument
from services.control_plane.open_registry import open_registry
from services.control_plane.registry_follower import RegistryFollower
from services.control_plane.replicas import open_replicas

NAME = "control-plane"

# Proxies hold two long streams each; the bound is on open streams, not on work.
_MAX_STREAMS = 20_000
_LONGEST_ENROLMENT = 64 << 10
# Of a certificate's life. Workloads renew at half of it, so a connection is made with half a life left or more, and its
# streams end in the last tenth of that: by then it has been asked to make room for one with the new certificate.
_CONNECTION_AGE = 0.35
_LONGEST_CHANGE = LONGEST_WAIT + 30.0

_log = get_logger(__name__)


async def run(settings: MeshSettings, stop: Stop) -> None:
    """Serve until `stop` is set. Raises MeshError when a port, a file or a setting is not usable."""
    _check_namespace(settings)
    settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = CertificateAuthority.open(settings.ca_dir, trust_domain=settings.trust_domain)
    tokens = JoinTokens.open(settings.ca_dir)
    declarations = DeclarationStore.open(settings.state_dir / "declarations.json")
    store = StateStore(MeshState(settings.trust_domain, settings.namespace))
    store.set_declarations(declarations.declarations)
    store.set_revoked(authority.revocations.services)
    draining = asyncio.Event()
    lifetime = settings.certificate_lifetime

    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(open_registry(settings, authority, draining))
        follower = RegistryFollower(registry.registry, store)
        replicas = await stack.enter_async_context(
            open_replicas(str(settings.control_advertise), registry.consul, declarations, store)
        )
        reports = LoadReports(timed_clusters=lambda: subset_clusters(store.current.policy.document))
        document = LiveDocument(
            settings,
            store,
            registry.consul,
            leads=lambda: replicas.leadership.is_leader,
            known_services=lambda: store.current.joined if follower.first_snapshot.is_set() else None,
            error_rates=reports,
        )
        loads = LoadReportServer(store, reports, leads=lambda: document.leads)
        ready = asyncio.Event()
        ads = AdsServer(
            store, ready=ready, policy_for=document.rollout.policy_for, on_answer=document.rollout.note_answer
        )
        control = ControlServicer(
            settings,
            authority=authority,
            tokens=tokens,
            declarations=declarations,
            store=store,
            registry=registry,
            follower=follower,
            ads=ads,
            started=datetime.now(UTC),
            draining=draining,
            replicas=replicas,
        )
        control_service = Service(
            control_service_pb2.DESCRIPTOR.services_by_name["ControlService"],
            lambda server: control_service_pb2_grpc.add_ControlServiceServicer_to_server(control, server),
        )
        keeper = AccessKeeper(AccessStores(settings.ca_dir / "access"), store)
        tokens_issuer = TokenIssuer(keeper.stores, lambda: keeper.tokens)
        gateways = GatewayServicer(store, keeper, tokens_issuer, document.rollout.history, draining)
        canaries = open_canaries(settings, document, store, registry.consul, reports)
        parts = ConfigParts(document.rollout, document.sources, ads, store, draining)
        if not document.is_shared:
            # What is wrong with the files is to be said now; what is shared comes when it can be reached.
            await document.start(ads)
        enrolment_tls = await stack.enter_async_context(
            open_server_credentials(
                authority, NAME, require_client_certificate=False, namespace=settings.namespace, lifetime=lifetime
            )
        )
        control_tls = await stack.enter_async_context(
            open_server_credentials(
                authority,
                NAME,
                require_client_certificate=True,
                namespace=settings.namespace,
                lifetime=lifetime,
                # gRPC's own xDS client checks the name that it dials.
                hosts=(settings.control_advertise.host,),
            )
        )
        enrolment_server = await stack.enter_async_context(
            open_server(
                ServerSettings(
                    service=NAME,
                    listen=str(settings.enrolment_bind),
                    credentials=enrolment_tls.credentials,
                    # Strangers come here, and what they may say is short.
                    max_message_bytes=_LONGEST_ENROLMENT,
                ),
                [_identity_service(authority, tokens, settings, enrolment=True)],
            )
        )
        control_server = await stack.enter_async_context(
            open_server(
                ServerSettings(
                    service=NAME,
                    listen=str(settings.control_bind),
                    credentials=control_tls.credentials,
                    max_concurrent=_MAX_STREAMS,
                    max_connection_age=lifetime.total_seconds() * _CONNECTION_AGE,
                ),
                [
                    _identity_service(authority, tokens, settings, enrolment=False),
                    registry.for_members,
                    gateway_service(gateways),
                    _config_service(parts, access_by_certificate(settings.config_admins)),
                ],
                generic_handlers=[ads.handler, loads.handler],
            )
        )
        # Last: who gets an answer here may take it that all ports are there.
        admin_server = await stack.enter_async_context(
            open_server(
                ServerSettings(service=NAME, listen=f"unix:{settings.admin_socket}", default_deadline=_LONGEST_CHANGE),
                [
                    control_service,
                    authority_service(authority, store, lifetime),
                    access_service(keeper, access_by_socket(settings.admin_socket)),
                    registry.for_operators,
                    _config_service(parts, access_by_socket(settings.admin_socket)),
                    canaries.service(access_by_socket(settings.admin_socket), draining),
                ],
            )
        )
        async with asyncio.TaskGroup() as group:
            works = (
                follower.follow(),
                ads.run(),
                keep_authority(authority, store, lifetime, leads=lambda: replicas.leadership.is_leader),
                document.run(ads),
                keeper.run(leads=lambda: replicas.leadership.is_leader),
                loads.run(),
                _follow_lead(replicas.leadership, loads),
                canaries.run(document.started),
                _tell_ready(ready, follower.first_snapshot, document.started),
            )
            background = [group.create_task(work) for work in works]
            for server in (admin_server, enrolment_server, control_server):
                await server.set_serving(True)
            _log.info(
                "control_plane_ready",
                control=str(settings.control_bind),
                enrolment=str(settings.enrolment_bind),
                registry=registry.kind,
                registry_address=registry.address,
            )
            keep_heap()
            await stop.wait()
            draining.set()
            for task in background:
                task.cancel()


async def _tell_ready(ready: asyncio.Event, *needed: asyncio.Event) -> None:
    """Let proxies be served once there is something to say to them."""
    for event in needed:
        await event.wait()
    ready.set()


async def _follow_lead(leadership: Leadership, loads: LoadReportServer) -> None:
    while True:
        await leadership.wait_for_change()
        loads.wake()


def _config_service(parts: ConfigParts, access: Access) -> Service:
    servicer = ConfigServicer(parts, access)
    return Service(
        config_service_pb2.DESCRIPTOR.services_by_name["ConfigService"],
        lambda server: config_service_pb2_grpc.add_ConfigServiceServicer_to_server(servicer, server),
    )


def _check_namespace(settings: MeshSettings) -> None:
    """Every identity holds it, and no proxy would accept one of another form."""
    try:
        SpiffeId.parse(str(SpiffeId("a", settings.namespace, NAME)))
    except InvalidInput as err:
        raise InvalidInput(
            f"{settings.namespace!r} is not a namespace.",
            field="MESH_NAMESPACE",
            fix="Use lower-case letters, digits and dashes, at most 63.",
        ) from err


def _identity_service(
    authority: CertificateAuthority, tokens: JoinTokens, settings: MeshSettings, *, enrolment: bool
) -> Service:
    servicer = IdentityServicer(
        authority, tokens, settings.namespace, enrolment=enrolment, lifetime=settings.certificate_lifetime
    )
    return Service(
        identity_service_pb2.DESCRIPTOR.services_by_name["IdentityService"],
        lambda server: identity_service_pb2_grpc.add_IdentityServiceServicer_to_server(servicer, server),
    )
