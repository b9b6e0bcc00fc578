"""MCP for hosts outside, over streamable HTTP: both eras of the protocol on the same URLs.

    Door -- who, what era --+-- ModernHost ----+-- Backend.serve(HostRequest, Host) --> one server, or all of them
                            +-- HandshakeHost -+            |
                              sessions (sealed ids)         +-- notifications and questions on the way to the host

A backend is asked in the modern form only (record 0017). May import the gateway's own parts and `mesh`.
"""

from services.gateway.web.mcp.routes import open_mcp

__all__ = ["open_mcp"]
