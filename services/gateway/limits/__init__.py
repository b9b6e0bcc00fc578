"""Limits that all gateways share, and the answers that they keep, on one Valkey or Redis.

edge Envoy ──ShouldRateLimit──> RateLimits ──> Counter ──> Valkey, Redis, or this process
"""

from services.gateway.limits.counter import Counter
from services.gateway.limits.service import RateLimits

__all__ = ["Counter", "RateLimits"]
