"""Routes of the mesh document: which requests, where they go, and what happens to them on the way."""

from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mesh.config.document.values import (
    Count,
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
