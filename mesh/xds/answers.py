"""What proxies say about what they were sent, for whoever watches over a change."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from mesh.model import SpiffeId

_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Answer:
    """One ACK or NACK. `refused` maps the names of refused resources to their versions; `message` is the NACK's."""

    node_id: str
    spiffe_id: SpiffeId
    type_url: str
    is_refusal: bool = False
    refused: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    message: str = ""
