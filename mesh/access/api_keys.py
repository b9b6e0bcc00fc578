"""API keys as texts: am_ID_SECRET. The id may be shown; of the secret only a hash is kept.

The secret has 256 random bits, so that a plain hash is enough: there is nothing to guess, and checking costs little.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from typing import Self

_FORM = re.compile(r"(am_[0-9a-f]{12})_([A-Za-z0-9_-]{43})")


@dataclass(frozen=True, slots=True)
class ApiKeyText:
    """A key as a client sends it; `id` is "am_" and 12 hexadecimal digits."""

    id: str
    secret: str = field(repr=False)

    @classmethod
    def create(cls) -> Self:
        """A new one."""
        return cls(f"am_{secrets.token_hex(6)}", secrets.token_urlsafe(32))

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read what a client has sent; None when it has not the form of a key."""
        found = _FORM.fullmatch(text)
        return None if found is None else cls(found[1], found[2])

    @property
    def text(self) -> str:
        """What a client sends."""
        return f"{self.id}_{self.secret}"

    @property
    def digest(self) -> bytes:
        """SHA-256 of the secret."""
        return hashlib.sha256(self.secret.encode()).digest()

    def fits(self, digest: bytes) -> bool:
        """Whether the secret is the one that was hashed, told in the same time for all."""
        return hmac.compare_digest(self.digest, digest)
