"""The mesh framework: what agents, MCP bridges, sidecars and the control plane are built from.

Arrows point down only:

    agent
    mcp | sidecar | xds            siblings; they do not know each other
    state
    discovery | identity | config  sources of facts
    rpc
    runtime
    telemetry
    model
    errors
"""

import os as _os

# Before anything imports grpc, which reads it then: the fork handlers of gRPC's C core crash a child between fork and
# exec while a server or a channel is in use (grpcio 1.85.1: one start in a hundred, more under load). Children that
# only execute a program need no handlers.
_os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

__version__ = "0.1.0"
