"""The mesh document: what operators say about traffic, as one typed, immutable value.

    MeshDocument ── mesh          what holds for the mesh as a whole
                 ├─ defaults      the policy of every service that does not say otherwise
                 ├─ services      per service: its policy, subsets, routes, upstreams
                 ├─ intentions    who may call what inside of the mesh
                 ├─ access        who comes in from outside, and what they may call
                 ├─ edge          how much of that, and in which form
                 └─ tools         bounds, repeats, arguments, redaction, guardrails and pins of tools

Everything about a service stands with the service that is called, and holds for all of its callers. The defaults of the
fields are the defaults of the mesh; an empty document is a good one.
"""

from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mesh.config.document.access import AccessPolicy
from mesh.config.document.edge import Edge
from mesh.config.document.protection import (
    CircuitBreaker,
    Concurrency,
    Connections,
    HealthCheck,
    LoadBalancing,
    OutlierDetection,
)
from mesh.config.document.routing import Fault, RateLimit, Retry, Route
from mesh.config.document.tools import Tools
from mesh.config.document.values import (
    Duration,
    HeaderMatch,
    List,
    Names,
    Part,
    Percent,
    PositiveDuration,
    Target,
)


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
    access: AccessPolicy = AccessPolicy()
    edge: Edge = Edge()
    tools: Tools = Tools()
