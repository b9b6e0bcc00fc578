"""What the gateway serves over HTTP, behind its own Envoy, which has authenticated and authorized each request.

edge Envoy ──x-mesh-user──> web.sock ──> graphql, events, tokens, openapi
"""
