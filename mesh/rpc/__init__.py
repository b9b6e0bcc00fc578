"""One way to serve gRPC and one way to call it.

    open_server ── CallInterceptor ──> handler            deadline, correlation, limits, errors, logs, metrics
              └─── health, reflection, drain
    open_channel ── MeshChannel ──> own sidecar's unix socket, authority NAME.mesh

May import runtime and below, and the stubs of `agentmesh.error`.
"""

from mesh.rpc.channels import SELECTOR, Way, open_channel, open_target
from mesh.rpc.context import CallContext, call_context
from mesh.rpc.server import Server, ServerSettings, Service, open_server
from mesh.rpc.status import DOMAIN, code_of, error_from_rpc, error_to_status

__all__ = [
    "DOMAIN",
    "SELECTOR",
    "CallContext",
    "Server",
    "ServerSettings",
    "Service",
    "Way",
    "call_context",
    "code_of",
    "error_from_rpc",
    "error_to_status",
    "open_channel",
    "open_server",
    "open_target",
]
