"""What one server or agent offers, as far as the gateway knows."""

import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from mesh.mcp.frames import dump_json
from services.gateway.federation.names import federated_name, federated_uri

OfferKind = Literal["tools", "prompts", "resources", "resourceTemplates"]
KINDS: tuple[OfferKind, ...] = ("tools", "prompts", "resources", "resourceTemplates")

_KEY: Mapping[OfferKind, str] = {
    "tools": "name",
    "prompts": "name",
    "resources": "uri",
    "resourceTemplates": "uriTemplate",
}


@dataclass(frozen=True, slots=True)
class Offer:
    """A tool, prompt, resource or template: `facts` is what the server says, `text` JSON of that as all see it."""

    server: str
    key: str
    shown: str
    facts: Mapping[str, Any]
    text: bytes

    @classmethod
    def of(cls, server: str, kind: OfferKind, facts: Mapping[str, Any]) -> "Offer | None":
        """Read what a server says; None for what has no name."""
        key = facts.get(_KEY[kind])
        if not isinstance(key, str) or not key:
            return None
        shown = federated_name(server, key) if _KEY[kind] == "name" else federated_uri(server, key)
        return cls(server, key, shown, facts, dump_json({**facts, _KEY[kind]: shown}))


@dataclass
class Shelf:
    """The newest that is known; `problem` says why nothing newer is, "" when all is well."""

    server: str
    kind: str
    hello: Mapping[str, Any] = field(default_factory=dict)
    offers: dict[OfferKind, tuple[Offer, ...]] = field(default_factory=lambda: dict.fromkeys(KINDS, ()))
    version: int = 0
    problem: str = ""
    since: float = field(default_factory=time.time)
    is_filled: bool = False
    awaited_until: float = 0.0
    """Until then, on time.monotonic's clock, listings wait for it to be filled for the first time."""
    tools: dict[str, Offer] = field(default_factory=dict)
    """Its tools by the names that they have there."""
    with_headers: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Schemas of tools some of whose arguments are repeated in headers (x-mcp-header), by the tool's name."""

    def put(self, kind: OfferKind, found: list[Any]) -> bool:
        """Take over a list; tells whether it is another one than before."""
        made = (Offer.of(self.server, kind, each) for each in found if isinstance(each, dict))
        offers = tuple(offer for offer in made if offer is not None)
        if [offer.text for offer in offers] == [offer.text for offer in self.offers[kind]]:
            return False
        self.offers[kind] = offers
        if kind == "tools":
            self.tools = {offer.key: offer for offer in offers}
            self.with_headers = {
                offer.key: offer.facts["inputSchema"]
                for offer in offers
                if b'"x-mcp-header"' in offer.text and isinstance(offer.facts.get("inputSchema"), dict)
            }
        return True

    def state(self) -> dict[str, Any]:
        """What hosts are told of a server that is not well."""
        return {"server": self.server, "reason": self.problem, "since": round(self.since)}


@dataclass(frozen=True, slots=True)
class Changed:
    """One of the lists of a server is another one than before."""

    server: str
    kind: OfferKind


class Source(Protocol):
    """Where the contents of a shelf come from. All raise MeshError when there is no answer."""

    async def hello(self) -> Mapping[str, Any]:
        """What the server says of itself: the result of server/discover."""
        ...

    async def list(self, kind: OfferKind) -> list[Any]:
        """All of one kind, as the server says it."""
        ...

    def changes(self) -> AbstractAsyncContextManager[AsyncIterator[OfferKind]]:
        """Which lists have changed since the context was entered, as it happens."""
        ...


MakeSource = Callable[[str, str], Source]
"""Makes the source of a service by its name and kind."""


def read_list(result: bytes, kind: OfferKind) -> tuple[list[Any], str]:
    """A page of a list, and the cursor of the next one, "" after the last."""
    facts = json.loads(result)
    found = facts.get(kind) if isinstance(facts, dict) else None
    cursor = facts.get("nextCursor") if isinstance(facts, dict) else None
    return (found if isinstance(found, list) else []), (cursor if isinstance(cursor, str) else "")
