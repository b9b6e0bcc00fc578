"""Limits at the edge: token buckets in Envoy itself, and counts that all gateways share, asked of the guard."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from mesh.config.document.edge import Limit
from mesh.xds import names
from mesh.xds.resources.limits import build_extension, discovered
from mesh.xds.resources.resource import Resource, any_of
from mesh.xds.resources.values import always, seconds

GUARD_FACTS = "envoy.filters.http.ext_authz"
"""The metadata in which the guard says which shared limits a call counts for: NAME to {per: value}."""

_LOCAL = "extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
_SHARED = "extensions.filters.http.ratelimit.v3.RateLimit"
_DOMAIN = "edge"
_MOST_BUCKETS = 10_000
_NO_LIMIT = {"max_tokens": 1_000_000_000, "tokens_per_fill": 1_000_000_000, "fill_interval": "1s"}
_TIMEOUT = "1s"
# So Envoy calls what the action of that name gives.
_ADDRESS = "masked_remote_address"


def client_limits_filter() -> dict[str, Any]:
    """The filter of limits with scope local, see `build_client_limits`."""
    return discovered(names.CLIENT_LIMITS, any_of(_LOCAL, {"stat_prefix": names.CLIENT_LIMITS}), _LOCAL)


def shared_limits_filter() -> dict[str, Any]:
    """The filter of limits with scope global, see `build_shared_limits`."""
    return discovered(names.SHARED_LIMITS, any_of(_SHARED, _shared({})), _SHARED)


@lru_cache(maxsize=64)
def build_client_limits(limits: Mapping[str, Limit]) -> Resource:
    """A bucket for each value of what a limit is per."""
    local = {name: limit for name, limit in sorted(limits.items()) if limit.scope == "local"}
    literal: dict[str, Any] = {"stat_prefix": names.CLIENT_LIMITS}
    if local:
        literal |= {
            "token_bucket": _NO_LIMIT,
            "filter_enabled": always(),
            "filter_enforced": always(),
            "always_consume_default_token_bucket": False,
            "rate_limited_as_resource_exhausted": True,
            "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
            "max_dynamic_descriptors": _MOST_BUCKETS,
            "rate_limits": [
                {"actions": [_named(name), *(_LOCAL_ACTIONS[key] for key in _keys_of(limit))]}
                for name, limit in local.items()
            ],
            "descriptors": [
                {"entries": [{"key": "limit", "value": name}, *_entries(limit, service)], **_bucket(limit)}
                for name, limit in local.items()
                for service in limit.services
            ],
        }
    return build_extension(names.CLIENT_LIMITS, any_of(_LOCAL, literal))


@lru_cache(maxsize=64)
def build_shared_limits(limits: Mapping[str, Limit]) -> Resource:
    """One descriptor for each limit that the guard says a call counts for; without any nobody is asked."""
    return build_extension(names.SHARED_LIMITS, any_of(_SHARED, _shared(limits)))


def _shared(limits: Mapping[str, Limit]) -> dict[str, Any]:
    shared = {name: limit for name, limit in sorted(limits.items()) if limit.scope == "global"}
    return {
        "domain": _DOMAIN,
        "request_type": "both",
        "timeout": _TIMEOUT,
        # The guard knows of each limit whether it is open or closed; without the guard nothing gets here.
        "failure_mode_deny": False,
        "rate_limited_as_resource_exhausted": True,
        "rate_limit_service": {
            "grpc_service": {"envoy_grpc": {"cluster_name": names.GUARD_CLUSTER}},
            "transport_api_version": "V3",
        },
        "rate_limits": [
            {"actions": [_named(name), *(_from_guard(name, per) for per in limit.per)]}
            for name, limit in shared.items()
        ],
    }


def _named(name: str) -> dict[str, Any]:
    return {"generic_key": {"descriptor_key": "limit", "descriptor_value": name}}


def _keys_of(limit: Limit) -> tuple[str, ...]:
    """By what a local limit counts: also by the service when it is about some of them only."""
    return limit.per if limit.services == ("*",) or "service" in limit.per else (*limit.per, "service")


def _entries(limit: Limit, service: str) -> list[dict[str, str]]:
    """One key without a value stands for a bucket for each value."""
    return [
        {"key": _ADDRESS if key == "client" else key}
        | ({"value": service} if key == "service" and service != "*" else {})
        for key in _keys_of(limit)
    ]


def _bucket(limit: Limit) -> dict[str, Any]:
    return {
        "token_bucket": {
            "max_tokens": limit.burst or limit.requests,
            "tokens_per_fill": limit.requests,
            "fill_interval": seconds(limit.window),
        }
    }


def _from_guard(name: str, per: str) -> dict[str, Any]:
    """Absent for a call that does not count, which then has no such descriptor."""
    return {
        "metadata": {
            "descriptor_key": per,
            "source": "DYNAMIC",
            "metadata_key": {"key": GUARD_FACTS, "path": [{"key": "limits"}, {"key": name}, {"key": per}]},
        }
    }


_LOCAL_ACTIONS: Mapping[str, dict[str, Any]] = {
    # A client with IPv6 has a whole network of addresses.
    "client": {"masked_remote_address": {"v4_prefix_mask_len": 32, "v6_prefix_mask_len": 64}},
    "service": {
        "metadata": {
            "descriptor_key": "service",
            "source": "ROUTE_ENTRY",
            "metadata_key": {"key": names.ROUTE_FACTS, "path": [{"key": "service"}]},
            "default_value": "gateway",
        }
    },
}
