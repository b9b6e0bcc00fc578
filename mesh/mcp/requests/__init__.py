"""Requests of the modern era (2026-07-28) as JSON text, for servers of either era. Serves Ask and Dialog.

    RequestServer --+-- modern server ----> Connection.ask --> Exchange --+-- Mux over the one child's pipes
                    |                                                     +-- HttpExchange: a POST for each
                    +-- handshake era ----> SessionPool --> Session --> Mux --> LinkPeer (a child or a URL of its own)

Nothing here makes models of what it carries: a request goes out as the bytes that it came in, and so does a result,
unless something must be changed in it. May import the modules of `mesh.mcp` and what that may import.
"""
