"""Who a workload is: SPIFFE ids of the form spiffe://TRUST-DOMAIN/ns/NAMESPACE/svc/SERVICE.

Source of the form: https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md, section 2.
"""

import re
from dataclasses import dataclass
from typing import Self

from mesh.errors import InvalidInput

_FORM = re.compile(r"spiffe://([a-z0-9._-]{1,255})/ns/([a-z0-9-]{1,63})/svc/([a-z0-9-]{1,63})")


@dataclass(frozen=True, slots=True, order=True)
class SpiffeId:
    """The identity of all instances of one service."""

    trust_domain: str
    namespace: str
    service: str

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}/ns/{self.namespace}/svc/{self.service}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a SPIFFE id of the mesh; raises InvalidInput for any other text."""
        match = _FORM.fullmatch(text)
        if match is None:
            raise InvalidInput(
                f"{text!r} is not a SPIFFE id of a mesh.",
                field="spiffe_id",
                fix="It has the form spiffe://TRUST-DOMAIN/ns/NAMESPACE/svc/SERVICE.",
            )
        return cls(*match.groups())
