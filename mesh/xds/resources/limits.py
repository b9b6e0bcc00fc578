"""What one instance of a service takes: requests in a time, requests and connections at a time."""

from functools import lru_cache
from typing import Any

from mesh.config.document.protection import AdaptiveConcurrency
from mesh.config.document.routing import RateLimit
from mesh.xds import names
from mesh.xds.resources.resource import Resource, any_of, build_resource
from mesh.xds.resources.values import always, seconds

_RATE = "extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
_ADAPTIVE = "extensions.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency"
_CONNECTIONS = "extensions.filters.network.connection_limit.v3.ConnectionLimit"

_EXPRESSION = "extensions.rate_limit_descriptors.expr.v3.Descriptor"

_CONNECTION_KEY = "connection"
_MOST_BUCKETS = 10_000
_MOST_TOKENS = (1 << 32) - 1
_NO_BOUND = 1 << 62


def open_rate_filter(name: str) -> dict[str, Any]:
    """A rate limit filter that limits nothing, unless a route says otherwise."""
    return {"name": name, "typed_config": any_of(_RATE, {"stat_prefix": name})}


def build_rate_limit(name: str, limit: RateLimit) -> dict[str, Any]:
    """The limit of a route or virtual host, for its typed_per_filter_config under the filter's `name`."""
    bucket = {
        "max_tokens": limit.burst or limit.requests,
        "tokens_per_fill": limit.requests,
        "fill_interval": seconds(limit.per),
    }
    literal: dict[str, Any] = {
        "stat_prefix": name,
        "token_bucket": bucket,
        "filter_enabled": always(),
        "filter_enforced": always(),
        "rate_limited_as_resource_exhausted": True,
    }
    if limit.scope == "connection":
        literal |= _per_connection(bucket)
    return {name: any_of(_RATE, literal)}


def _per_connection(bucket: dict[str, Any]) -> dict[str, Any]:
    """A bucket for each far end, address and port.

    Envoy's own limit per connection keeps for as long as the connection lives what it began with.
    """
    config = any_of(_EXPRESSION, {"descriptor_key": _CONNECTION_KEY, "text": "source.address"})
    action = {"extension": {"name": "envoy.rate_limit_descriptors.expr", "typed_config": config}}
    return {
        "token_bucket": bucket | {"max_tokens": _MOST_TOKENS, "tokens_per_fill": _MOST_TOKENS},
        "descriptors": [{"entries": [{"key": _CONNECTION_KEY}], "token_bucket": bucket}],
        "rate_limits": [{"actions": [action]}],
        "max_dynamic_descriptors": _MOST_BUCKETS,
        "always_consume_default_token_bucket": False,
    }


def lift_rate_limit(name: str) -> dict[str, Any]:
    """Takes a limit of the virtual host off one route."""
    return {name: any_of("config.route.v3.FilterConfig", {"disabled": True})}


def adaptive_filter() -> dict[str, Any]:
    """The HTTP filter that learns how much the application can take, see `build_adaptive_concurrency`."""
    return discovered(names.ADAPTIVE_CONCURRENCY, _adaptive(None), _ADAPTIVE)


def connection_filter(name: str = names.CONNECTION_LIMIT) -> dict[str, Any]:
    """The network filter that bounds connections, see `build_connection_limit`."""
    return discovered(name, _connections(name, None), _CONNECTIONS)


def discovered(name: str, default: dict[str, Any], kind: str) -> dict[str, Any]:
    """A filter whose configuration comes over ADS: a change of it leaves the listener and open connections alone."""
    return {
        "name": name,
        "config_discovery": {
            "config_source": {"ads": {}, "resource_api_version": "V3"},
            "default_config": default,
            # The listener need not wait for it.
            "apply_default_config_without_warming": True,
            "type_urls": [f"type.googleapis.com/envoy.{kind}"],
        },
    }


@lru_cache(maxsize=1024)
def build_adaptive_concurrency(adaptive: AdaptiveConcurrency | None) -> Resource:
    """The configuration of `adaptive_filter`; None: it lets everything through.

    It is apart from the routes because each change of these would make it learn anew.
    """
    return build_extension(names.ADAPTIVE_CONCURRENCY, _adaptive(adaptive))


@lru_cache(maxsize=1024)
def build_connection_limit(most: int | None, name: str = names.CONNECTION_LIMIT) -> Resource:
    """The configuration of `connection_filter`: further connections are closed at once; None: no bound."""
    return build_extension(name, _connections(name, most))


def build_extension(name: str, config: dict[str, Any]) -> Resource:
    return build_resource(names.EXTENSION, name, {"name": name, "typed_config": config})


def _connections(name: str, most: int | None) -> dict[str, Any]:
    bound = _NO_BOUND if most is None else most
    return any_of(_CONNECTIONS, {"stat_prefix": name, "max_connections": bound})


def _adaptive(adaptive: AdaptiveConcurrency | None) -> dict[str, Any]:
    learning = adaptive if adaptive is not None else AdaptiveConcurrency()
    literal = {
        "gradient_controller_config": {
            "concurrency_limit_params": {
                "max_concurrency_limit": learning.max_concurrency,
                "min_concurrency_limit": learning.min_concurrency,
                "concurrency_update_interval": seconds(learning.sample_window),
            },
            "min_rtt_calc_params": {
                "interval": seconds(learning.measure_every),
                "min_concurrency": learning.min_concurrency,
            },
        },
        "enabled": {"default_value": adaptive is not None, "runtime_key": f"mesh.{names.ADAPTIVE_CONCURRENCY}"},
    }
    return any_of(_ADAPTIVE, literal)
