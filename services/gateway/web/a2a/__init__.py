"""A2A 1.0: each agent of the mesh that the caller may call is an agent of A2A, at /agents/NAME.

    /agents/NAME/.well-known/agent-card.json     the card
    POST /agents/NAME, /agents/NAME/             JSON-RPC
    /agents/NAME/message:send, /tasks, ...       HTTP+JSON
    lf.a2a.v1.A2AService                         gRPC; x-mesh-service, the authority or the tenant names the agent

    door (routes, grpc_door) ──> a2a-sdk: bindings, errors ──> handler ──> agents ──mTLS──> AgentService of the agent

May import the doors beside it and what is below. The SDK is imported with the first request: it takes 10 MB.
"""

from services.gateway.web.a2a.grpc_door import A2aGrpcDoor
from services.gateway.web.a2a.lazy import A2aDoor, Needs
from services.gateway.web.a2a.routes import a2a_routes

__all__ = ["A2aDoor", "A2aGrpcDoor", "Needs", "a2a_routes"]
