"""MCP servers in the mesh: the bridge that fronts one, and the client that speaks MCP through it.

    McpBridgeServicer --+-- typed calls --> Upstream --> Connection --+-- stdio: one warm child process, shared
                        |                                             +-- streamable HTTP
                        |
                        +-- Ask, Dialog --> RequestServer --> that connection, or SessionPool --> LinkPeer (below)
                        |
                        +-- Link -----> LinkServer --> LinkPeer ------+-- stdio: a child process for each link
                                                                      +-- streamable HTTP, verbatim
    mcp.Client --> open_link_transport --> (mesh channel) --> Link

May import `mesh.rpc` and what is below it. The modules behind `open_http_wire` and `open_http_peer` are imported only
where a URL is given, since they bring an HTTP client with them.
"""

# First, so that everything below imports the SDK without its servers.
from mesh.mcp import lean_sdk as _lean_sdk  # noqa: F401, I001
from mesh.mcp.client import open_link_transport
from mesh.mcp.link import DEFAULT_MAX_LINKS, LinkPeer, LinkServer
from mesh.mcp.frames import DEFAULT_MAX_FRAME_BYTES
from mesh.mcp.link_stdio import open_stdio_peer
from mesh.mcp.requests.pool import DEFAULT_IDLE_SECONDS, DEFAULT_MAX_SESSIONS, SessionPool, open_session_pool
from mesh.mcp.requests.serving import RequestServer
from mesh.mcp.servicer import McpBridgeServicer
from mesh.mcp.stdio import check_command, open_stdio_wire
from mesh.mcp.upstream import Upstream
from mesh.mcp.wire import OpenWire, Wire

__all__ = [
    "DEFAULT_IDLE_SECONDS",
    "DEFAULT_MAX_FRAME_BYTES",
    "DEFAULT_MAX_LINKS",
    "DEFAULT_MAX_SESSIONS",
    "LinkPeer",
    "LinkServer",
    "McpBridgeServicer",
    "OpenWire",
    "RequestServer",
    "SessionPool",
    "Upstream",
    "Wire",
    "check_command",
    "open_link_transport",
    "open_session_pool",
    "open_stdio_peer",
    "open_stdio_wire",
]
