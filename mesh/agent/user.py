"""On whose behalf a task runs: the user, key or token that a gateway has vouched for."""

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from mesh.errors import Unauthenticated

if TYPE_CHECKING:
    from mesh.identity.user_token import UserTokenVerifier


@dataclass(frozen=True, slots=True)
class User:
    """Who has called at the edge. `principal` is KIND:NAME, such as user:ada, or "anonymous"; `roles` are its own."""

    principal: str
    kind: str
    name: str
    roles: tuple[str, ...] = ()


def verify_user(token: str) -> User | None:
    """The user that a token of a gateway speaks of; None for no token.

    Raises Unauthenticated when the token does not hold, or there is no way to tell: outside of the mesh's launcher.
    """
    if not token:
        return None
    verifier = _verifier(os.environ.get("MESH_TRUST_BUNDLE") or "", os.environ.get("MESH_TRUST_DOMAIN") or "")
    if verifier is None:
        raise Unauthenticated(
            "A user token came, and there is nothing to verify it with.",
            reason="NO_TRUST_BUNDLE",
            field="MESH_TRUST_BUNDLE",
            fix="Start the agent with `meshctl run`, or set MESH_TRUST_BUNDLE and MESH_TRUST_DOMAIN.",
        )
    claims = verifier.verify(token)
    return User(
        principal=str(claims["sub"]),
        kind=str(claims.get("kind", "")),
        name=str(claims.get("name", "")),
        roles=tuple(str(role) for role in claims.get("roles", ())),
    )


@cache
def _verifier(bundle: str, trust_domain: str) -> "UserTokenVerifier | None":
    # Imported with the first token: most agents never see one, and it takes 10 MB.
    from mesh.identity.user_token import UserTokenVerifier

    return UserTokenVerifier(Path(bundle), trust_domain) if bundle and trust_domain else None
