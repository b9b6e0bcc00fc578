"""Limits that all gateways share.

edge Envoy ──ShouldRateLimit──> RateLimits ──> Counter ──> Circuit ──> Valkey, Redis, or this process
"""

from services.gateway.limits.counter import Counter, Taken
from services.gateway.limits.service import OverLimit, RateLimits

__all__ = ["Counter", "OverLimit", "RateLimits", "Taken"]
