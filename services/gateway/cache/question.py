"""What an answer depends on, and nothing else is sent on to the service."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

from mesh.access import Principal


@dataclass(frozen=True)
class Question:
    """A call whose answer may be kept. `generation` changes with whatever may make the service answer differently."""

    service: str
    method: str
    request: bytes
    principal: Principal
    generation: bytes

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over all of it; different for whatever differs, in the principal, too."""
        who = self.principal
        parts = [self.service, self.method, who.kind, who.name, who.issuer, who.login, *sorted(who.roles)]
        digest = hashlib.sha256(len(parts).to_bytes(4))
        for part in (*(part.encode() for part in parts), self.generation, self.request):
            digest.update(len(part).to_bytes(8))
            digest.update(part)
        return digest.digest()
