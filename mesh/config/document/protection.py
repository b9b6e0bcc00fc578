"""What the mesh document says of instances: which one is chosen, and what protects it and its callers."""

import math
from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mesh.config.document.values import (
    Count,
    Duration,
    List,
    Part,
    Percent,
    PositiveDuration,
)


class LoadBalancing(Part):
    """How a caller chooses among the instances of a service."""

    policy: Literal["least_request", "round_robin", "random", "ring_hash", "maglev"] = "least_request"
    choices: int = Field(default=2, ge=2, le=100)
    """least_request: among how many the least busy is taken."""
    hash_on: List[Annotated[str, Field(pattern=r"^(source_ip|header:[a-z0-9-]+|cookie:[A-Za-z0-9_-]+|query:.+)$")]] = ()
    """ring_hash and maglev: what decides, first that is there: header:NAME, cookie:NAME, query:NAME, source_ip."""
    min_ring_size: Annotated[int, Field(ge=1, le=8_388_608)] = 1024
    max_ring_size: Annotated[int, Field(ge=1, le=8_388_608)] = 8_388_608
    table_size: Annotated[int, Field(ge=2, le=5_000_011)] = 65_537
    """maglev: must be prime, as Envoy demands."""
    slow_start: Duration = timedelta(0)
    """A new instance gets its full share only after this long (least_request and round_robin)."""
    locality: Literal["prefer", "ignore"] = "prefer"
    """prefer: instances of the caller's own zone first, others when too few of these are healthy."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.policy in ("ring_hash", "maglev") and not self.hash_on:
            raise ValueError(f"{self.policy} needs hash_on")
        if self.max_ring_size < self.min_ring_size:
            raise ValueError("max_ring_size must not be below min_ring_size")
        if any(self.table_size % number == 0 for number in range(2, math.isqrt(self.table_size) + 1)):
            raise ValueError("table_size must be a prime number, such as 65537")
        return self


class CircuitBreaker(Part):
    """What one calling proxy may have open to the service at a time; above it, calls fail at once."""

    max_connections: Count = 1024
    max_pending_requests: Count = 1024
    max_requests: Count = 4096
    """The bulkhead: requests in flight of one caller's proxy."""
    retry_budget_percent: Percent = 20.0
    """Retries may be this share of the requests in flight."""
    min_retry_concurrency: int = Field(default=3, ge=0, le=1_000_000)


class OutlierDetection(Part):
    """Instances that fail are left out for a time."""

    enabled: bool = True
    interval: PositiveDuration = timedelta(seconds=1)
    base_ejection_time: PositiveDuration = timedelta(seconds=3)
    max_ejection_time: PositiveDuration = timedelta(seconds=30)
    max_ejection_percent: int = Field(default=60, ge=0, le=100)
    consecutive_gateway_failures: int = Field(default=5, ge=0, le=1_000_000)
    """Answers of UNAVAILABLE and its kin in a row; 0: do not look."""
    consecutive_local_failures: int = Field(default=3, ge=0, le=1_000_000)
    """Failed connections and resets in a row; 0: do not look."""
    failure_percentage: int | None = Field(default=None, ge=1, le=100)
    """Eject an instance above this share of failures in an interval of at least 20 requests."""


class HealthCheck(Part):
    """Active checks by each calling proxy, beside those of the registry."""

    kind: Literal["grpc", "http", "tcp"] = "grpc"
    service: str = ""
    """grpc: the service name in the request."""
    path: str = Field(default="/healthz", pattern=r"^/[^\x00\r\n]*$")
    """http: what is asked for."""
    interval: PositiveDuration = timedelta(seconds=5)
    timeout: PositiveDuration = timedelta(seconds=1)
    healthy_threshold: int = Field(default=1, ge=1, le=100)
    unhealthy_threshold: int = Field(default=2, ge=1, le=100)


class AdaptiveConcurrency(Part):
    """The sidecar learns by latency how many requests its application can take at a time (a gradient controller)."""

    min_concurrency: Count = 3
    max_concurrency: Count = 1000
    sample_window: PositiveDuration = timedelta(milliseconds=100)
    measure_every: PositiveDuration = timedelta(seconds=60)
    """How often the latency without load is measured."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_concurrency < self.min_concurrency:
            raise ValueError("max_concurrency must not be below min_concurrency")
        return self


class Concurrency(Part):
    """How many requests an instance serves at a time."""

    adaptive: AdaptiveConcurrency | None = None


class Connections(Part):
    """Bounds and times of connections."""

    connect_timeout: PositiveDuration = timedelta(seconds=1)
    idle_timeout: PositiveDuration = timedelta(hours=1)
    keepalive_interval: PositiveDuration = timedelta(seconds=10)
    keepalive_timeout: PositiveDuration = timedelta(seconds=5)
    max_requests_per_connection: Count | None = None
    max_inbound: Count | None = None
    """Connections that one instance accepts; none: the sidecar's own bound."""
