"""The mesh's own issuer of JSON Web Tokens."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TokenIssuer:
    """Its name (the claim "iss"), for whom its tokens are (the claim "aud"), and its public keys (RFC 7517, JSON)."""

    issuer: str
    audience: str
    jwks: str
