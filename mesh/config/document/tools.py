"""What the mesh document says of calls of tools: bounds, repeats, what arguments must be, what results must not show.

Who may call a tool at all is said by `access`, how often by `edge.limits`.
"""

from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mesh.config.document.access import RoleName
from mesh.config.document.edge import EntryName
from mesh.config.document.values import (
    Count,
    List,
    Names,
    OneLine,
    Part,
    PositiveDuration,
    ServiceName,
    check_regex,
)

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class ToolRetry(Part):
    """Calls that found no server are made again, of tools that say that it does no harm.

    They say so by the hint idempotentHint or readOnlyHint.
    """

    attempts: Annotated[int, Field(ge=2, le=5)] = 3
    """All together."""
    backoff: PositiveDuration = timedelta(milliseconds=100)
    """Before the second attempt; doubled before each further one."""


class ArgumentRule(Part):
    """What an argument must be. An argument that is not given fits all but `required`."""

    required: bool = False
    forbidden: bool = False
    """It must not be given at all."""
    pattern: str | None = Field(default=None, min_length=1)
    """RE2, for texts: some part must fit; write ^ and $ where all of it must."""
    values: List[str | int | float | bool] = ()
    """One of these."""
    max_length: Count | None = None
    """Characters of a text, items of a list."""
    minimum: float | None = None
    maximum: float | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.pattern is not None:
            check_regex(self.pattern)
        if self.required and self.forbidden:
            raise ValueError("an argument cannot be both required and forbidden")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError("minimum is above maximum")
        return self


class Redaction(Part):
    """What is taken out of the texts of results and errors."""

    pattern: str = Field(min_length=1)
    """RE2; letters match as they are."""
    replacement: OneLine = "[redacted]"

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_regex(self.pattern)
        return self


class ToolRule(Part):
    """What holds for calls of tools. All rules that a call fits hold together; of timeouts the shortest."""

    servers: List[str] = ("*",)
    """Mesh names of MCP servers and agents."""
    tools: List[str] = ("*",)
    """Names at the server, skills of agents; a trailing * stands for any rest."""
    roles: List[RoleName] = ()
    """Calls of those who have one of these roles; without any: everybody's."""
    timeout: PositiveDuration | None = None
    """For the call with all of its repeats."""
    retry: ToolRetry | None = None
    arguments: Names[ArgumentRule] = Names()
    """By name; dots lead into objects."""
    redact: Names[Redaction] = Names()
    guardrails: List[EntryName] = ()
    """Asked in this order; see `tools.guardrails`."""


class Guardrail(Part):
    """A service that is asked about calls: it has agentmesh.gateway.v1.GuardrailService."""

    service: ServiceName
    before: bool = True
    """Asked about the arguments, before the call."""
    after: bool = True
    """Asked about the result, before the host gets it."""
    timeout: PositiveDuration = timedelta(seconds=2)
    on_failure: Literal["closed", "open"] = "closed"
    """What becomes of calls while it does not answer: closed: they are refused."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not (self.before or self.after):
            raise ValueError("give at least one of before and after")
        return self


class Pin(Part):
    """The tools of a server as somebody has read and approved them: `meshctl tools SERVER --pin` writes it."""

    tools: Names[Digest] = Names()
    """A digest of what the server says of the tool, by name. Tools without any are not approved."""
    on_change: Literal["block", "flag"] = "block"
    """What becomes of a tool that is another one now: it is neither listed nor called, or only told in the log."""


class Tools(Part):
    """Everything about calls of tools."""

    rules: Names[ToolRule] = Names()
    guardrails: Names[Guardrail] = Names()
    pins: Names[Pin] = Names()
    """By server; of servers without any all tools are taken as they are."""
