"""What the mesh document says of the edge: how much it takes, what it keeps out, what it adds to answers."""

from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mesh.config.document.access import MethodPattern
from mesh.config.document.values import (
    Count,
    Duration,
    HeaderName,
    List,
    Names,
    OneLine,
    Part,
    PositiveDuration,
    check_regex,
)

EntryName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


class Limit(Part):
    """How many requests of one kind pass in a time; above that the answer is 429, or RESOURCE_EXHAUSTED on gRPC.

    Each value of what `per` names has a count of its own. `services`, `methods` and `tools` say which requests count.
    """

    scope: Literal["local", "global"] = "local"
    """local: each edge Envoy by itself, in token buckets; global: all gateways together, counted in Valkey or Redis."""
    per: List[Literal["client", "principal", "service", "method", "tool"]] = ("client",)
    """client: the address; principal: key, user or token, for those who show none the address."""
    requests: Count
    window: PositiveDuration = timedelta(seconds=1)
    burst: Count | None = None
    """local: size of the bucket; `requests` unless given."""
    services: List[str] = ("*",)
    methods: List[MethodPattern] = ("*",)
    tools: List[str] = ("*",)
    on_failure: Literal["open", "closed"] = "open"
    """global: what happens while the counter cannot be reached."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.per:
            raise ValueError("per needs at least one of client, principal, service, method, tool")
        if self.scope == "local" and self.window < timedelta(milliseconds=50):
            raise ValueError("a local window must be at least 50ms")
        if self.scope == "global" and (self.window < timedelta(seconds=1) or self.window.microseconds):
            raise ValueError("a global window must be whole seconds")
        if self.scope == "local" and set(self.per) - {"client", "service"}:
            raise ValueError("a local limit can be per client and per service; make it global for others")
        if self.scope == "local" and (self.methods != ("*",) or self.tools != ("*",)):
            raise ValueError("a local limit holds for whole services; make it global for methods and tools")
        return self


class FirewallRule(Part):
    """A pattern that requests must not have."""

    where: Literal["path", "query", "header", "body"]
    """path and query as they are after percent-decoding; body: of JSON and text, up to `max_body_bytes`."""
    header: HeaderName | None = None
    """With `where: header` the header; none: all of them."""
    pattern: str = Field(min_length=1)
    """RE2; letters match in either case."""
    action: Literal["block", "log"] = "block"
    description: str = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_regex(self.pattern)
        if self.header is not None and self.where != "header":
            raise ValueError("header goes with where: header")
        return self


class Firewall(Part):
    """Rules against what attacks look like."""

    enabled: bool = True
    mode: Literal["block", "log"] = "block"
    """log: rules that would block are logged only."""
    rules: Names[FirewallRule] = Names()
    """By name; a null takes one of the layers below away."""


class Cors(Part):
    """Which pages of other origins may call."""

    origins: List[str] = ()
    """Exact origins such as https://app.example.org; "*": any, without credentials."""
    methods: List[str] = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    headers: List[HeaderName] = (
        "authorization",
        "content-type",
        "x-api-key",
        "x-mesh-service",
        "x-correlation-id",
        "x-grpc-web",
        "x-user-agent",
        "grpc-timeout",
        "connect-protocol-version",
        "connect-timeout-ms",
        "last-event-id",
        "if-none-match",
        "mcp-protocol-version",
        "mcp-session-id",
        "mcp-method",
        "mcp-name",
        "a2a-version",
        "a2a-extensions",
    )
    expose: List[HeaderName] = (
        "grpc-status",
        "grpc-message",
        "mcp-session-id",
        "grpc-status-details-bin",
        "x-correlation-id",
        "ratelimit",
        "ratelimit-policy",
        "retry-after",
        "etag",
    )
    max_age: Duration = timedelta(minutes=10)


class CacheRule(Part):
    """Answers of reads that are kept for a time, for each principal by itself."""

    methods: List[MethodPattern] = Field(min_length=1)
    """PACKAGE.SERVICE/METHOD, PACKAGE.SERVICE/* or "*": reads of the public contracts that are answered once."""
    services: List[str] = ("*",)
    ttl: Annotated[PositiveDuration, Field(le=timedelta(days=1))]
    """Answers are at most that old. A change of the service's instances or of the document ends them before."""


class Protection(Part):
    """Bounds against too much and too slow."""

    max_connections: Count = 10_000
    max_concurrent_streams: Annotated[int, Field(ge=1, le=65_536)] = 128
    """Of one HTTP/2 connection."""
    max_header_kb: Annotated[int, Field(ge=1, le=8192)] = 60
    max_headers: Annotated[int, Field(ge=1, le=10_000)] = 100
    max_body_bytes: Annotated[int, Field(ge=1, le=1 << 30)] = 16 << 20
    header_timeout: PositiveDuration = timedelta(seconds=10)
    """For all headers of a request to come."""
    stream_idle_timeout: Duration = timedelta(hours=1)
    """A stream on which nothing moves for this long is ended; 0: never."""
    connection_idle_timeout: PositiveDuration = timedelta(hours=1)
    trusted_hops: Annotated[int, Field(ge=0, le=16)] = 0
    """Proxies of one's own in front of the edge, whose word on the client's address (x-forwarded-for) counts."""


class Edge(Part):
    """Everything about the edge."""

    protection: Protection = Protection()
    limits: Names[Limit] = Names()
    firewall: Firewall = Firewall()
    cors: Cors = Cors()
    cache: Names[CacheRule] = Names()
    compression: bool = True
    security_headers: Names[OneLine] = Names(
        {
            "strict-transport-security": "max-age=31536000",
            "x-content-type-options": "nosniff",
            "x-frame-options": "DENY",
            "referrer-policy": "no-referrer",
            "content-security-policy": "default-src 'self'; frame-ancestors 'none'",
        }
    )
    """Added to answers that do not have them."""
    plaintext: bool = True
    """Whether the door without TLS is open; production must not have it."""
