"""Who a call from outside is made by."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

PrincipalKind = Literal["anonymous", "user", "key", "token", "service"]

_NOTHING: Mapping[str, object] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls, as a credential has shown.

    kind        name                                     credential
    anonymous   ""                                       none
    user        the user's name                          token of the own issuer
    key         the key's id                             API key, or a token that was given for one
    token       the claim "sub"                          token of an external issuer, whose name is `issuer`
    service     a SPIFFE id                              certificate of a service of the mesh

    `roles` are those that the credential itself has; bindings of the mesh document may give more. `claims` are those of
    a token. `login` is the claim "sid" of a token of the own issuer.
    """

    kind: PrincipalKind
    name: str = ""
    issuer: str = ""
    roles: tuple[str, ...] = ()
    claims: Mapping[str, object] = field(default_factory=lambda: _NOTHING, hash=False, compare=False)
    login: str = ""

    def __str__(self) -> str:
        """KIND:NAME, for people and for the audit; token:ISSUER/NAME for tokens of external issuers."""
        if self.kind == "anonymous":
            return self.kind
        return f"{self.kind}:{self.issuer}/{self.name}" if self.issuer else f"{self.kind}:{self.name}"


ANONYMOUS = Principal("anonymous")
"""Whoever shows nothing."""
