"""What the mesh document says of calls from outside: which roles there are, who has them, and whose tokens count.

A denial of any role that a principal has beats every permission. What no rule allows is refused.
"""

from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mesh.config.document.values import List, Names, Part, PositiveDuration, Text

RoleName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
MethodPattern = Annotated[
    str, Field(pattern=r"^(\*|[A-Za-z_][A-Za-z0-9_.]*/([A-Za-z_][A-Za-z0-9_]*|\*)|/[^\x00\r\n]*)$")
]
"""PACKAGE.SERVICE/METHOD, PACKAGE.SERVICE/*, /PATH (a trailing * matches any rest), or "*".

The path of a method of gRPC is /PACKAGE.SERVICE/METHOD: "/*" is about all of them, too.
"""


class Rule(Part):
    """What may be called, or must not: all that is given must fit. "*" stands for everything."""

    services: List[str] = ("*",)
    """Mesh names; "gateway" stands for what the gateway itself serves, such as /graphql."""
    methods: List[MethodPattern] = ("*",)
    tools: List[str] = ("*",)
    """Tools of MCP servers. Where it is not "*", the rule is about calls of tools only."""
    skills: List[str] = ("*",)
    """Skills of agents. Where it is not "*", the rule is about tasks for skills only."""


class Role(Part):
    """What those who have it may do."""

    description: str = ""
    allow: List[Rule] = ()
    deny: List[Rule] = ()


class Binding(Part):
    """Who has roles: whoever fits one of the lists, or, with `claims`, whose token has all of these."""

    roles: List[RoleName] = Field(min_length=1)
    anonymous: bool = False
    """Those who show no credential."""
    authenticated: bool = False
    """All who show a credential that holds."""
    users: List[str] = ()
    """Names of users, by tokens of the own issuer; "*": all of them."""
    keys: List[str] = ()
    """Ids of API keys; "*": all of them."""
    services: List[str] = ()
    """SPIFFE ids of callers with a certificate of the mesh; "*": all of them."""
    issuer: str = ""
    """With `claims`: the name of an external issuer under `access.issuers`; "": the own one."""
    claims: Names[Text] = Names()
    """Claims of a token by name, dots lead into objects; of a list one item must fit."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        who = (self.anonymous, self.authenticated, self.users, self.keys, self.services, self.claims)
        if not any(who):
            raise ValueError("give at least one of anonymous, authenticated, users, keys, services, claims")
        if self.issuer and not self.claims:
            raise ValueError("issuer goes with claims")
        return self


class Issuer(Part):
    """An external issuer of JSON Web Tokens."""

    issuer: str = Field(min_length=1)
    """As in the claim "iss"."""
    audiences: List[str] = Field(min_length=1)
    """A token must be for one of these, the claim "aud"."""
    jwks: str | None = None
    """The key set itself, a JSON text."""
    jwks_uri: str | None = Field(default=None, pattern=r"^https?://[^\s/]+(/\S*)?$")
    """Where the edge fetches the key set."""
    jwks_refresh: PositiveDuration = timedelta(minutes=5)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.jwks is None) == (self.jwks_uri is None):
            raise ValueError("give either jwks or jwks_uri")
        return self


class Tokens(Part):
    """What the own issuer gives."""

    issuer: str = "agentmesh"
    """The claim "iss"."""
    audience: str = "agentmesh"
    """The claim "aud"."""
    algorithm: Literal["EdDSA", "ES256"] = "EdDSA"
    access_lifetime: PositiveDuration = timedelta(minutes=10)
    refresh_lifetime: PositiveDuration = timedelta(hours=12)
    """How long after the login refresh tokens go on."""
    key_lifetime: PositiveDuration = timedelta(days=30)
    """After that a new key signs."""


class Audit(Part):
    """The log of decisions."""

    reads: bool = True
    """Whether allowed calls are noted, too, and not refusals only."""
    max_file_mb: int = Field(default=64, ge=1, le=10_000)
    """At this size a new file is begun."""
    keep: int = Field(default=14, ge=1, le=10_000)
    """How many files are kept."""


class AccessPolicy(Part):
    """Everything about who may come in."""

    roles: Names[Role] = Names()
    bindings: Names[Binding] = Names()
    issuers: Names[Issuer] = Names()
    tokens: Tokens = Tokens()
    audit: Audit = Audit()
