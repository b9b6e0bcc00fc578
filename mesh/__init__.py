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

__version__ = "0.1.0"
