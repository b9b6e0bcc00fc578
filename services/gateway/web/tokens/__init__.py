"""Tokens over HTTP: OAuth 2.1 for clients, a login for people, and what others need to verify tokens.

/oauth2/token, /oauth2/revoke                   RFC 6749 (client_credentials, refresh_token), RFC 7009
/oauth2/device_authorization, /oauth2/device    RFC 8628, with the page on which a person says yes
/.well-known/oauth-authorization-server         RFC 8414
/.well-known/jwks.json                          RFC 7517
/v1/auth/login, /v1/auth/whoami                 for `meshctl login` and pages

The control plane decides about passwords, keys and refresh tokens. Device codes are the gateway's own: in memory, for
ten minutes, so a device must ask the gateway that has given it the code.
"""

from services.gateway.web.tokens.routes import token_routes

__all__ = ["token_routes"]
