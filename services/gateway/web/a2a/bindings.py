"""The three bindings of A2A, as the SDK serves them, around one handler."""

import asyncio
import logging
from typing import Any

from a2a.server.context import ServerCallContext
from a2a.server.routes.common import ServerCallContextBuilder
from a2a.server.routes.jsonrpc_routes import create_jsonrpc_routes
from a2a.server.routes.rest_routes import create_rest_routes
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route, Router
from starlette.types import Receive, Scope, Send

from services.gateway.storage import Circuit
from services.gateway.web.a2a.agents import Agents
from services.gateway.web.a2a.card_routes import CardDoor
from services.gateway.web.a2a.gate import Asked, Gate
from services.gateway.web.a2a.grpc_binding import GrpcBinding
from services.gateway.web.a2a.handler import MeshHandler
from services.gateway.web.a2a.lazy import Needs
from services.gateway.web.a2a.push import PushConfigs, Pushers, PushOperations, Webhook
from services.gateway.web.a2a.sent import Sent
from services.gateway.web.a2a.signing import CardSigner
from services.gateway.web.a2a.submission import Submission
from services.gateway.web.bodies import read_body
from services.gateway.web.caller import caller_of
from services.gateway.web.mcp.policy import Policy
from services.gateway.web.mcp.sessions import Sealer

_LONGEST = 16 << 20
_JSON = ("application/json", "application/a2a+json")
_WRONG_TYPE = {
    "jsonrpc": "2.0",
    "id": None,
    "error": {
        "code": -32005,
        "message": "Incompatible content types",
        "data": [
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "CONTENT_TYPE_NOT_SUPPORTED",
                "domain": "a2a-protocol.org",
            }
        ],
    },
}


class Bindings:
    """All agents at all bindings."""

    def __init__(self, needs: Needs, *, ending: asyncio.Event) -> None:
        # It logs what clients have done wrong, with stack traces, and parts of what they have sent.
        logging.getLogger("a2a").setLevel(logging.CRITICAL)
        knowledge, storage = needs.knowledge, needs.storage
        gate = self._gate = Gate(knowledge, needs.notes.note)
        agents = Agents(gate, needs.channels, needs.sign)
        sealer = Sealer(lambda: knowledge.access.sealing_keys)
        policy = Policy(lambda: knowledge.view, needs.limits, needs.notes)
        webhook = Webhook(needs.push_networks)
        configs = PushConfigs(storage.records, Circuit("a2a push"), sealer, webhook)
        self.pushers = Pushers(configs, gate, agents, webhook, gate.renew)
        push = PushOperations(gate, agents, configs, self.pushers)
        self.cards = CardDoor(gate, agents, CardSigner(lambda: knowledge.access.sealing_keys))
        sent = Sent(storage.answers, Circuit("a2a"))
        submission = Submission(gate, agents, policy, sent, push)
        self.handler = MeshHandler(gate, agents, submission, push, self.cards.extended, ending)
        self.grpc = GrpcBinding(self.handler, gate)
        builder = _Contexts()
        rpc = create_jsonrpc_routes(self.handler, "/", context_builder=builder)
        rest = create_rest_routes(self.handler, context_builder=builder)
        # An agent of the mesh has no tenants.
        rest = [route for route in rest if not isinstance(route, Mount)]
        card = Route("/.well-known/agent-card.json", self.cards.serve, methods=["GET"])
        self._router = Router([card, *rpc, *rest])

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request below /agents/NAME. Raises MeshError for an agent that the caller does not see."""
        request = Request(scope, receive)
        agent = scope["path_params"]["agent"]
        asked = Asked(agent, caller_of(request), base_url_of(request))
        self._gate.check_visible(asked)
        scope.setdefault("state", {})["asked"] = asked
        if scope["method"] == "POST":
            body = await read_body(request, _LONGEST)
            media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            is_rpc = scope["path"].rstrip("/").endswith(f"/agents/{agent}")
            if is_rpc and media_type not in _JSON:
                await JSONResponse(_WRONG_TYPE)(scope, receive, send)
                return
            receive = _again(body, receive)
        if scope["path"].endswith(f"/agents/{agent}"):
            # Without the slash it is no path below the mount.
            scope = {**scope, "path": scope["path"] + "/", "root_path": scope.get("root_path", "") + scope["path"]}
        await self._router(scope, receive, send)


class _Contexts(ServerCallContextBuilder):
    """Puts into the context of a call who asks which agent."""

    def build(self, request: Request) -> ServerCallContext:
        return ServerCallContext(state={"asked": request.state.asked, "headers": dict(request.headers)})


def base_url_of(request: Request) -> str:
    """The address of the edge as the client has written it: it is what the client can reach."""
    scheme = request.headers.get("x-forwarded-proto", "")
    return f"{scheme if scheme in ('http', 'https') else 'http'}://{request.headers.get('host', '')}"


def _again(body: bytes, receive: Receive) -> Receive:
    """A receive that gives the body once more, and then what comes after it: that the client has gone."""
    given = False

    async def receive_again() -> Any:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again
