"""Wires the gateway."""

from contextlib import AsyncExitStack

from mesh.access.audit import open_audit
from mesh.config.document.access import Audit as AuditPolicy
from mesh.identity.user_token import UserTokenSigner
from mesh.rpc import Server, ServerSettings, open_server
from mesh.rpc.contracts import PUBLIC
from mesh.runtime import Stop, open_background
from services.gateway.guard.check import Guard
from services.gateway.guard.notes import Notes
from services.gateway.guard.server import open_guard
from services.gateway.health_desk import HealthDesk
from services.gateway.help_desk import HelpDesk
from services.gateway.knowledge import Knowledge, open_knowledge
from services.gateway.limits import Counter, RateLimits
from services.gateway.limits.counter import open_storage
from services.gateway.settings import GatewaySettings
from services.gateway.web.openapi import openapi_routes
from services.gateway.web.server import build_app, open_web
from services.gateway.web.tokens import token_routes

# Of streams that clients hold open; how many calls they make is for the limits of the mesh document to say.
_MOST_CALLS = 4096


async def run(stop: Stop) -> None:
    """Serve until `stop` is set. Raises MeshError when a setting or a socket is not usable."""
    settings = GatewaySettings.from_environment()
    desk = HealthDesk()
    async with AsyncExitStack() as stack:
        knowledge, stub = await stack.enter_async_context(open_knowledge(settings.secrets_dir / "access.pb"))
        audit = await stack.enter_async_context(open_audit(settings.audit_dir, lambda: _audit_policy(knowledge)))
        notes = Notes(audit, lambda: _audit_policy(knowledge))
        guard = Guard(lambda: knowledge.view, UserTokenSigner(settings.secrets_dir), notes.note)
        limits = RateLimits(
            lambda: knowledge.view.edge.limits if knowledge.view is not None else {},
            Counter(open_storage(settings.cache_url)),
        )
        await stack.enter_async_context(open_guard(settings.guard_listen, [guard.handler, limits.handler]))
        await stack.enter_async_context(
            open_web(settings.web_listen, build_app([*token_routes(knowledge, stub), *openapi_routes()]))
        )
        server = await stack.enter_async_context(
            open_server(
                ServerSettings(
                    service="gateway",
                    listen=settings.listen,
                    described=tuple(contract.full_name for contract in PUBLIC),
                    max_concurrent=_MOST_CALLS,
                ),
                [],
                generic_handlers=[HelpDesk()],
                health_of=desk.is_healthy,
            )
        )
        await stack.enter_async_context(open_background(_serve(server, knowledge)))
        await stop.wait()


def _audit_policy(knowledge: Knowledge) -> AuditPolicy:
    return knowledge.view.rules.policy.audit if knowledge.view is not None else AuditPolicy()


async def _serve(server: Server, knowledge: Knowledge) -> None:
    """Take calls from when it is known who may make them."""
    await knowledge.knows_access.wait()
    await server.set_serving(True)
