"""JSON Web Tokens at the edge: Envoy verifies them and tells the guard what they say, or what is wrong with them.

A token that does not hold is not refused here: the guard refuses it, so that each refusal is decided, told and noted in
one place. Sources: RFC 7519, https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/jwt_authn_filter
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from mesh.config.document.access import Issuer
from mesh.model import TokenIssuer
from mesh.xds import names
from mesh.xds.resources.limits import build_extension, discovered
from mesh.xds.resources.resource import Resource, any_of, build_resource
from mesh.xds.resources.values import seconds

OWN = "own"
"""The key under which the guard finds what a token of the own issuer says; others have issuer.NAME."""

FACTS = "envoy.filters.http.jwt_authn"
"""The metadata in which Envoy says what it has found out."""

_JWT = "extensions.filters.http.jwt_authn.v3.JwtAuthentication"
_CLOCK_SKEW = 5
_KEPT = 10_000
_LONGEST_TOKEN = 8192
# A page of a browser cannot set headers of a WebSocket or of an EventSource.
_BY_QUERY = ("/ws", "/events")
_QUERY_PARAMETER = "access_token"


def tokens_filter() -> dict[str, Any]:
    """The filter that verifies tokens, see `build_tokens`."""
    return discovered(names.TOKENS, any_of(_JWT), _JWT)


@lru_cache(maxsize=64)
def build_tokens(own: TokenIssuer | None, issuers: Mapping[str, Issuer]) -> Resource:
    """Whose tokens count: those of the own issuer, and of each external one."""
    providers = {} if own is None else {OWN: _provider(OWN, own.issuer, (own.audience,), _inline(own.jwks))}
    for name, issuer in sorted(issuers.items()):
        keys = _inline(issuer.jwks) if issuer.jwks is not None else _remote(name, issuer)
        key = f"issuer.{name}"
        providers[key] = _provider(key, issuer.issuer, issuer.audiences, keys)
    literal: dict[str, Any] = {"bypass_cors_preflight": True}
    if providers:
        by_query = {f"{key}.query": _with_query(provider) for key, provider in providers.items()}
        literal |= {
            "providers": providers | by_query,
            "rules": [
                *({"match": {"path": path}, "requires": _any_of_these(by_query)} for path in _BY_QUERY),
                {"match": {"prefix": "/"}, "requires": _any_of_these(providers)},
            ],
        }
    return build_extension(names.TOKENS, any_of(_JWT, literal))


@lru_cache(maxsize=64)
def build_issuer_cluster(name: str, issuer: Issuer) -> Resource:
    """Where the key set of an external issuer is fetched."""
    assert issuer.jwks_uri is not None
    url = urlsplit(issuer.jwks_uri)
    port = url.port or (443 if url.scheme == "https" else 80)
    address = {"socket_address": {"address": url.hostname or "", "port_value": port}}
    cluster = names.issuer_cluster_of(name)
    literal: dict[str, Any] = {
        "name": cluster,
        "type": "STRICT_DNS",
        "connect_timeout": "5s",
        "dns_lookup_family": "ALL",
        "load_assignment": {
            "cluster_name": cluster,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }
    if url.scheme == "https":
        context = {
            "sni": url.hostname or "",
            "auto_sni_san_validation": True,
            "common_tls_context": {
                "validation_context": {"system_root_certs": {}},
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
            },
        }
        tls = any_of("extensions.transport_sockets.tls.v3.UpstreamTlsContext", context)
        literal["transport_socket"] = {"name": "tls", "typed_config": tls}
    return build_resource(names.CLUSTER, cluster, literal)


def _provider(key: str, issuer: str, audiences: tuple[str, ...], keys: dict[str, Any]) -> dict[str, Any]:
    return {
        "issuer": issuer,
        "audiences": list(audiences),
        **keys,
        # Unless it is said, Envoy looks for tokens in the query, too, and queries stand in logs.
        "from_headers": [{"name": "authorization", "value_prefix": "Bearer "}],
        "require_expiration": True,
        "clock_skew_seconds": _CLOCK_SKEW,
        # The guard takes it off, whether it holds or not.
        "forward": True,
        "payload_in_metadata": key,
        "failed_status_in_metadata": f"failed.{key}",
        "jwt_cache_config": {"jwt_cache_size": _KEPT, "jwt_max_token_size": _LONGEST_TOKEN},
    }


def _with_query(provider: dict[str, Any]) -> dict[str, Any]:
    return provider | {
        "from_params": [_QUERY_PARAMETER],
        # So that it is taken out of the path, too.
        "forward": False,
    }


def _inline(jwks: str) -> dict[str, Any]:
    return {"local_jwks": {"inline_string": jwks}}


def _remote(name: str, issuer: Issuer) -> dict[str, Any]:
    refresh = seconds(issuer.jwks_refresh)
    return {
        "remote_jwks": {
            "http_uri": {"uri": issuer.jwks_uri, "cluster": names.issuer_cluster_of(name), "timeout": "5s"},
            "cache_duration": refresh,
            # Fetched before the first token comes, and one issuer that is away holds up nothing.
            "async_fetch": {"fast_listener": True, "failed_refetch_duration": "5s"},
            "retry_policy": {"retry_back_off": {"base_interval": "0.1s", "max_interval": "2s"}, "num_retries": 2},
        }
    }


def _any_of_these(providers: Mapping[str, Any]) -> dict[str, Any]:
    requirements = [{"provider_name": name} for name in providers]
    return {"requires_any": {"requirements": [*requirements, {"allow_missing_or_failed": {}}]}}
