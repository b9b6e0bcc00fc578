"""What guards callers against a service that fails or is slow: bounds, outlier detection, active health checks."""

from typing import Any

from mesh.config.document.protection import CircuitBreaker, HealthCheck, OutlierDetection
from mesh.xds.resources.values import seconds

_ENOUGH_REQUESTS = 20


def build_breaker(breaker: CircuitBreaker) -> dict[str, Any]:
    """The CircuitBreakers of a Cluster."""
    budget = {
        "budget_percent": {"value": breaker.retry_budget_percent},
        "min_retry_concurrency": breaker.min_retry_concurrency,
    }
    threshold = {
        "max_connections": breaker.max_connections,
        "max_pending_requests": breaker.max_pending_requests,
        "max_requests": breaker.max_requests,
        "retry_budget": budget,
    }
    return {"thresholds": [threshold]}


def build_outlier(outlier: OutlierDetection) -> dict[str, Any]:
    """The `outlier_detection` of a Cluster, if there is to be any.

    Answers of gRPC status UNAVAILABLE and its kin count as gateway failures.
    """
    if not outlier.enabled:
        return {}
    literal: dict[str, Any] = {
        "interval": seconds(outlier.interval),
        "base_ejection_time": seconds(outlier.base_ejection_time),
        # Envoy refuses a longest time below the first one.
        "max_ejection_time": seconds(max(outlier.max_ejection_time, outlier.base_ejection_time)),
        "max_ejection_percent": outlier.max_ejection_percent,
        # Envoy looks at local failures unless told otherwise, and at gateway failures only when told to.
        "enforcing_consecutive_gateway_failure": 100,
        **_in_a_row("gateway_failure", outlier.consecutive_gateway_failures),
        "enforcing_consecutive_5xx": 0,
        "split_external_local_origin_errors": True,
        **_in_a_row("local_origin_failure", outlier.consecutive_local_failures),
        "enforcing_success_rate": 0,
        "enforcing_local_origin_success_rate": 0,
    }
    if outlier.failure_percentage is not None:
        literal |= {
            "failure_percentage_threshold": outlier.failure_percentage,
            "failure_percentage_request_volume": _ENOUGH_REQUESTS,
            "failure_percentage_minimum_hosts": 1,
            "enforcing_failure_percentage": 100,
            "enforcing_failure_percentage_local_origin": 100,
        }
    return {"outlier_detection": literal}


def _in_a_row(what: str, count: int) -> dict[str, Any]:
    return {f"consecutive_{what}": count} if count else {f"enforcing_consecutive_{what}": 0}


def build_health_checks(check: HealthCheck | None, authority: str) -> dict[str, Any]:
    """The `health_checks` of a Cluster, if there are to be any."""
    if check is None:
        return {}
    kinds: dict[str, dict[str, Any]] = {
        "grpc": {"grpc_health_check": {"service_name": check.service, "authority": authority}},
        "http": {"http_health_check": {"host": authority, "path": check.path, "codec_client_type": "HTTP2"}},
        "tcp": {"tcp_health_check": {}},
    }
    literal = {
        "interval": seconds(check.interval),
        # Envoy looks once a minute only where nobody calls.
        "no_traffic_interval": seconds(check.interval),
        "timeout": seconds(check.timeout),
        "healthy_threshold": check.healthy_threshold,
        "unhealthy_threshold": check.unhealthy_threshold,
        **kinds[check.kind],
    }
    return {"health_checks": [literal]}
