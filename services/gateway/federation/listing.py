"""What one caller sees of all: put together once for everybody with the same roles, and only when something changed."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from mesh.mcp.frames import dump_json
from services.gateway.federation.shelf import Offer, OfferKind, Shelf

_MOST_KEPT = 256

May = Callable[[str, OfferKind, str], bool]
"""Whether a caller may use something: server, kind, name at the server; "" for whether it may list that kind at all."""


@dataclass(frozen=True, slots=True)
class _Kept:
    version: int
    offers: tuple[Offer, ...]
    text: bytes


class Listings:
    """Lists by kind and `who`: what decides about what a caller may see, such as its roles and the version of rules."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[OfferKind, Hashable], _Kept] = OrderedDict()

    def offers(
        self, shelves: Sequence[Shelf], version: int, kind: OfferKind, who: Hashable, may: May
    ) -> tuple[Offer, ...]:
        """What the caller may use, by server and then in the server's order."""
        return self._of(shelves, version, kind, who, may).offers

    def result(self, shelves: Sequence[Shelf], version: int, kind: OfferKind, who: Hashable, may: May) -> bytes:
        """The same as the result of a list method, JSON; servers that are not well are named in its "_meta"."""
        return self._of(shelves, version, kind, who, may).text

    def _of(self, shelves: Sequence[Shelf], version: int, kind: OfferKind, who: Hashable, may: May) -> _Kept:
        key = (kind, who)
        kept = self._kept.get(key)
        if kept is not None and kept.version == version:
            self._kept.move_to_end(key)
            return kept
        offers = tuple(
            offer
            for shelf in shelves
            if may(shelf.server, kind, "")
            for offer in shelf.offers[kind]
            if may(shelf.server, kind, offer.key)
        )
        degraded = [shelf.state() for shelf in shelves if shelf.problem and may(shelf.server, kind, "")]
        meta = b',"_meta":{"agentmesh/degraded":%s}' % dump_json(degraded) if degraded else b""
        text = b'{"%s":[%s],"resultType":"complete","ttlMs":0,"cacheScope":"private"%s}' % (
            kind.encode(),
            b",".join(offer.text for offer in offers),
            meta,
        )
        made = self._kept[key] = _Kept(version, offers, text)
        if len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)
        return made
