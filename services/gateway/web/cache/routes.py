"""Purging: what is kept of a service is not given any more, in all gateways that share a storage."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from mesh.access import may_see
from mesh.errors import NotFound
from services.gateway.cache import Kept
from services.gateway.knowledge import Knowledge
from services.gateway.web.caller import caller_of


def cache_routes(knowledge: Knowledge, kept: Kept) -> list[BaseRoute]:
    """All routes about what is kept."""

    async def purge(request: Request) -> Response:
        service = request.path_params["service"]
        view = knowledge.view
        principal = caller_of(request).principal
        is_known = any(each.name == service for each in knowledge.mesh.services)
        if view is None or not is_known or not may_see(view.rules, principal, service):
            raise NotFound(
                f"There is no service {service[:80]!r} that you may call.",
                reason="UNKNOWN_SERVICE",
                field="service",
                fix="/v1/services has those that there are.",
            )
        await kept.purge(service)
        return Response(status_code=204)

    return [Route("/v1/cache/{service}", purge, methods=["DELETE"])]
