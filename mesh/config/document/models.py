"""The mesh document: what operators say about traffic, as one typed, immutable value.

    MeshDocument ── mesh          what holds for the mesh as a whole
                 ├─ defaults      the policy of every service that does not say otherwise
                 ├─ services      per service: its policy, subsets, routes, upstreams
                 └─ intentions    who may call what

Everything about a service stands with the service that is called, and holds for all of its callers. The defaults of the
fields are the defaults of the mesh; an empty document is a good one.
"""

import math
from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mesh.config.document.values import (
    Duration,
    HeaderMatch,
    HeaderName,
    List,
    Names,
    OneLine,
    Part,
    Percent,
    PositiveDuration,
    ServiceName,
    Target,
    Text,
    Value,
    check_regex,
)

Count = Annotated[int, Field(ge=1, le=1_000_000)]

RetryCondition = Literal[
    "connect-failure",
    "refused-stream",
    "reset",
    "reset-before-request",
    "gateway-error",
    "5xx",
    "retriable-4xx",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
]
"""Envoy's retry_on words that mean something here; the last five are gRPC status codes."""


class GrpcMatch(Part):
    """A gRPC service, or one method of it."""

    service: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*$")
    """The full name, such as agentmesh.mcp.v1.McpBridgeService."""
    method: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")


class Match(Part):
    """Which requests a route is for: all that is given must hold. An empty match is for all."""

    authority: Text | None = None
    path: Text | None = None
    grpc: GrpcMatch | None = None
    http_method: str | None = Field(default=None, pattern=r"^[A-Z]{1,20}$")
    headers: Names[HeaderMatch] = Names()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.path is not None and self.grpc is not None:
            raise ValueError("give either path or grpc")
        if self.path is not None and not (self.path.exact or self.path.prefix or "/").startswith("/"):
            raise ValueError("a path begins with /")
        return self


class Mirror(Part):
    """A copy of requests goes to another place; its answers are thrown away."""

    to: Target
    percent: Percent = 100.0


class Rewrite(Part):
    """What of the request is changed before it goes on."""

    authority: OneLine | None = None
    prefix: OneLine | None = None
    """Replaces the prefix that the route matched; needs match.path.prefix."""
    regex: str | None = None
    """RE2; what it matches in the path is replaced by `substitution`."""
    substitution: OneLine | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.regex is None) != (self.substitution is None):
            raise ValueError("regex and substitution belong together")
        if self.prefix is not None and self.regex is not None:
            raise ValueError("give either prefix or regex")
        if self.regex is not None:
            check_regex(self.regex)
        return self


class Retry(Part):
    """When a request is tried again. What certainly reached nobody is retried in any case, three times."""

    attempts: int = Field(default=3, ge=0, le=10)
    """Tries after the first."""
    on: List[RetryCondition] = ()
    """Beyond connect-failure and refused-stream. A request may have run: name what idempotent calls allow."""
    per_try_timeout: PositiveDuration | None = None
    backoff: PositiveDuration = timedelta(milliseconds=10)
    max_backoff: PositiveDuration = timedelta(milliseconds=100)
    hedge: bool = False
    """On a per-try timeout the first try goes on beside the second; the first answer wins."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_backoff < self.backoff:
            raise ValueError("max_backoff must not be shorter than backoff")
        if self.hedge and self.per_try_timeout is None:
            raise ValueError("hedge needs per_try_timeout")
        return self


class HeaderEdits(Part):
    """Headers that are set (replacing), added (appending) or removed."""

    set: Names[Value] = Names()
    add: Names[Value] = Names()
    remove: List[HeaderName] = ()


class Headers(Part):
    """Changes of headers on the way to the service and back."""

    request: HeaderEdits = HeaderEdits()
    response: HeaderEdits = HeaderEdits()


class Delay(Part):
    """Some requests wait before they go on."""

    duration: PositiveDuration
    percent: Percent = 100.0


class Abort(Part):
    """Some requests are answered with an error instead of going on."""

    grpc: (
        Literal[
            "CANCELLED",
            "UNKNOWN",
            "INVALID_ARGUMENT",
            "DEADLINE_EXCEEDED",
            "NOT_FOUND",
            "ALREADY_EXISTS",
            "PERMISSION_DENIED",
            "RESOURCE_EXHAUSTED",
            "FAILED_PRECONDITION",
            "ABORTED",
            "OUT_OF_RANGE",
            "UNIMPLEMENTED",
            "INTERNAL",
            "UNAVAILABLE",
            "DATA_LOSS",
            "UNAUTHENTICATED",
        ]
        | None
    ) = None
    http: int | None = Field(default=None, ge=200, le=599)
    percent: Percent = 100.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.grpc is None) == (self.http is None):
            raise ValueError("give either grpc or http")
        return self


class Fault(Part):
    """Faults put in on purpose, for requests that have the given headers and come from the given callers."""

    delay: Delay | None = None
    abort: Abort | None = None
    headers: Names[HeaderMatch] = Names()
    callers: List[ServiceName] = ()
    """Empty: all callers."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.delay is None and self.abort is None:
            raise ValueError("give delay, abort or both")
        return self


class RateLimit(Part):
    """A token bucket; what is above it is answered with RESOURCE_EXHAUSTED (HTTP 429)."""

    requests: Count
    per: PositiveDuration = timedelta(seconds=1)
    """At least 50 ms, as Envoy fills buckets."""
    burst: Count | None = None
    """Size of the bucket; `requests` unless given."""
    scope: Literal["instance", "connection"] = "instance"
    """One bucket per instance of the service, or one per connection to it, which is one per calling proxy."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.per < timedelta(milliseconds=50):
            raise ValueError("per must be at least 50ms")
        return self


class Route(Part):
    """Requests that match go to a target or are split among several. The first route that matches counts."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    match: Match = Match()
    to: Target | None = None
    split: Names[Annotated[int, Field(ge=0, le=1_000_000)]] = Names()
    """Weights by target; they need not add up to 100, but not all may be 0."""
    mirror: Mirror | None = None
    rewrite: Rewrite | None = None
    timeout: Duration | None = None
    """Of the whole request, retries included; 0 or none: no limit but the caller's own."""
    idle_timeout: Duration | None = None
    """A stream on which nothing moves for this long is ended; none: never."""
    retry: Retry | None = None
    headers: Headers = Headers()
    fault: Fault | None = None
    rate_limit: RateLimit | None = None
    """Enforced by the called service's sidecars; a route that matches on authority cannot have one."""


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


class Subset(Part):
    """Some instances of a service: those with this version and these metadata."""

    version: str | None = None
    metadata: Names[str] = Names()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.version is None and not self.metadata:
            raise ValueError("give version, metadata or both")
        return self


class ServicePolicy(Part):
    """What holds for calls to a service; in `defaults`, for calls to all."""

    protocol: Literal["grpc", "http2", "http1"] = "grpc"
    """What the application speaks behind its sidecar."""
    load_balancing: LoadBalancing = LoadBalancing()
    circuit_breaker: CircuitBreaker = CircuitBreaker()
    outlier_detection: OutlierDetection = OutlierDetection()
    health_check: HealthCheck | None = None
    connections: Connections = Connections()
    concurrency: Concurrency = Concurrency()
    rate_limit: RateLimit | None = None
    timeout: Duration | None = None
    """For routes that give none."""
    idle_timeout: Duration | None = None
    """For routes that give none."""
    retry: Retry = Retry()
    """For routes that give none."""
    fault: Fault | None = None
    """For routes that give none."""


class Service(ServicePolicy):
    """All about one service."""

    upstreams: List[str] | None = None
    """Whom it may call; replaces what was declared when it was started. "*": every service."""
    authorities: List[Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")]] = ()
    """Further names by which it is called, beside NAME and NAME.mesh."""
    subsets: Names[Subset] = Names()
    routes: List[Route] = ()
    """Tried in order; what none of them matches goes to `split`, or to the service as a whole."""
    split: Names[Annotated[int, Field(ge=0, le=1_000_000)]] = Names()
    """Weights by target for requests that no route matches."""
    fallback: List[Target] = ()
    """Where requests to the service go when it has no healthy instance, in this order."""


class Intention(Part):
    """Who may call what. A denial beats a permission."""

    action: Literal["allow", "deny"]
    callers: List[str] = Field(min_length=1)
    """Names of services; "*": every member."""
    services: List[str] = Field(min_length=1)
    """Names of the called services; "*": every one."""
    methods: List[Annotated[str, Field(pattern=r"^(\*|[A-Za-z_][A-Za-z0-9_.]*/([A-Za-z_][A-Za-z0-9_]*|\*)|/.*)$")]] = (
        "*",
    )
    """PACKAGE.SERVICE/METHOD, PACKAGE.SERVICE/*, /PATH (a trailing * matches any rest), or "*"."""
    headers: Names[HeaderMatch] = Names()
    """The request must have these, too."""


class Telemetry(Part):
    """Traces of the sidecars."""

    collector: str | None = Field(default=None, pattern=r"^[^\s:]+:\d{1,5}$")
    """HOST:PORT of an OTLP/gRPC collector; none: sidecars trace nothing and pass trace headers on."""
    sampling_percent: Percent = 1.0
    """Share of requests without a decision of the caller that are traced."""


class StagedRollout(Part):
    """How a change of this document spreads."""

    strategy: Literal["all", "staged"] = "all"
    first_percent: Percent = 10.0
    """Share of the proxies, at least one, that get a change first."""
    hold: PositiveDuration = timedelta(seconds=30)
    """How long these must do well."""
    max_error_percent: Percent = 5.0
    """Above this share of failed requests at these proxies in that time the change is undone."""


class Mesh(Part):
    """What holds for the mesh as a whole."""

    default_intention: Literal["allow", "deny"] = "allow"
    """What happens to calls that no intention is about."""
    telemetry: Telemetry = Telemetry()
    rollout: StagedRollout = StagedRollout()


class MeshDocument(Part):
    """The whole document."""

    mesh: Mesh = Mesh()
    defaults: ServicePolicy = ServicePolicy()
    services: Names[Service] = Names()
    intentions: Names[Intention] = Names()
    """By name, so that a layer above may replace one, take one away with a null, and add others."""
