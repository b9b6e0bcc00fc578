"""The description of REST, made from the contracts themselves, and a page to read and try it.

descriptors, google.api.http, comments ──> build_openapi ──> /openapi.json ──> /docs
"""

from services.gateway.web.openapi.routes import openapi_routes

__all__ = ["openapi_routes"]
