"""Wires the gateway."""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack

import grpc

from mesh.access.audit import open_audit
from mesh.config.document.access import Audit as AuditPolicy
from mesh.identity.user_token import UserTokenSigner
from mesh.rpc import Server, ServerSettings, open_server
from mesh.rpc.contracts import PUBLIC
from mesh.runtime import Stop
from services.gateway.cache import CacheDoor, Generations, Kept, open_flights, open_upstream
from services.gateway.catalog import CatalogServicer, catalog_service
from services.gateway.channels import Channels
from services.gateway.guard.admission import Admission
from services.gateway.guard.check import Guard
from services.gateway.guard.notes import Notes
from services.gateway.guard.server import open_guard
from services.gateway.health_desk import HealthDesk
from services.gateway.help_desk import HelpDesk
from services.gateway.knowledge import Knowledge, open_knowledge
from services.gateway.limits import Counter, RateLimits
from services.gateway.settings import GatewaySettings
from services.gateway.storage import Circuit, open_storage
from services.gateway.web.a2a import A2aDoor, A2aGrpcDoor, Needs, a2a_routes
from services.gateway.web.cache import cache_routes
from services.gateway.web.events import EventHub, MeshSource, TaskSource, event_routes, follow_access
from services.gateway.web.graphql import GraphQLDoor
from services.gateway.web.mcp import open_mcp
from services.gateway.web.openapi import openapi_routes
from services.gateway.web.server import build_app, open_web
from services.gateway.web.tokens import token_routes

# Of streams that clients hold open; how many calls they make is for the limits of the mesh document to say.
_MOST_CALLS = 4096
_STREAM_GRACE = 3.0
"""Seconds in which readers of events are told that the gateway stops."""


async def run(stop: Stop) -> None:
    """Serve until `stop` is set. Raises MeshError when a setting or a socket is not usable."""
    settings = GatewaySettings.from_environment()
    async with AsyncExitStack() as stack:
        knowledge, stub = await stack.enter_async_context(open_knowledge(settings.secrets_dir / "access.pb"))
        audit = await stack.enter_async_context(open_audit(settings.audit_dir, lambda: _audit_policy(knowledge)))
        notes = Notes(audit, lambda: _audit_policy(knowledge))
        storage = await stack.enter_async_context(open_storage(settings.cache_url))
        counter = Counter(storage.counts, Circuit("limits"))
        limits = RateLimits(lambda: knowledge.view.edge.limits if knowledge.view is not None else {}, counter)
        signer = UserTokenSigner(settings.secrets_dir)
        admission = Admission(lambda: knowledge.view, signer, notes.note, limits.take_leased)
        handlers = [Guard(admission).handler, limits.handler]
        await stack.enter_async_context(open_guard(settings.guard_listen, handlers))

        kept = Kept(storage.answers, Circuit("cache"))
        flights = await stack.enter_async_context(open_flights())
        upstream = await stack.enter_async_context(open_upstream())
        cache = CacheDoor(lambda: knowledge.view, Generations(knowledge), kept, flights, upstream)

        hub = EventHub()
        channels = await stack.enter_async_context(Channels())
        a2a = A2aDoor(Needs(knowledge, channels, admission.sign, notes, limits, storage, settings.push_networks))
        graphql = GraphQLDoor(knowledge, hub, stub, channels, admission.sign)
        mesh_source, task_source = MeshSource(knowledge, hub), TaskSource(knowledge, hub)
        mcp = await stack.enter_async_context(open_mcp(knowledge, channels, limits, notes, admission))
        routes = [
            *token_routes(knowledge, stub),
            *openapi_routes(),
            *event_routes(knowledge, hub),
            *graphql.routes,
            *cache_routes(knowledge, kept),
            *mcp,
            *a2a_routes(a2a),
        ]
        await stack.enter_async_context(open_web(settings.web_listen, build_app(routes)))

        catalog = CatalogServicer(knowledge)
        server = await stack.enter_async_context(_open_contracts(settings, catalog, [cache, A2aGrpcDoor(a2a)]))
        catalog.draining = server.draining
        async with asyncio.TaskGroup() as group:
            background = [
                group.create_task(work)
                for work in (
                    _serve(server, knowledge),
                    mesh_source.run(),
                    task_source.run(),
                    follow_access(knowledge, hub),
                    a2a.run(),
                )
            ]
            await stop.wait()
            # First of all: who reads here may read on at another gateway at once.
            graphql.end_streams()
            a2a.end_streams()
            await hub.close(_STREAM_GRACE)
            for task in background:
                task.cancel()


def _open_contracts(
    settings: GatewaySettings, catalog: CatalogServicer, doors: Sequence[grpc.GenericRpcHandler]
) -> AbstractAsyncContextManager[Server]:
    """What the gateway itself serves over gRPC, and what it says to those who name no service."""
    desk = HealthDesk()
    own = catalog_service(catalog)
    server_settings = ServerSettings(
        service="gateway",
        listen=settings.listen,
        described=tuple(it.full_name for it in PUBLIC if it.full_name != own.descriptor.full_name),
        max_concurrent=_MOST_CALLS,
    )
    return open_server(server_settings, [own], generic_handlers=[*doors, HelpDesk()], health_of=desk.is_healthy)


def _audit_policy(knowledge: Knowledge) -> AuditPolicy:
    return knowledge.view.access.audit if knowledge.view is not None else AuditPolicy()


async def _serve(server: Server, knowledge: Knowledge) -> None:
    """Take calls from when it is known who may make them."""
    await knowledge.knows_access.wait()
    await server.set_serving(True)
