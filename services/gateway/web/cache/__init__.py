"""The door by which kept answers are purged."""

from services.gateway.web.cache.routes import cache_routes

__all__ = ["cache_routes"]
