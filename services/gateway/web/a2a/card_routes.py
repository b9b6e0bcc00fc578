"""Serves the card of an agent, to those who may see it."""

import hashlib
import json
import time
from collections import OrderedDict
from email.utils import formatdate

from a2a.types import a2a_pb2 as a2a
from google.protobuf.json_format import MessageToDict
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from services.gateway.web.a2a.agents import Agents
from services.gateway.web.a2a.cards import build_card
from services.gateway.web.a2a.gate import Asked, Gate
from services.gateway.web.a2a.signing import CardSigner

_MAX_AGE = 60
_KEYS_AGE = 300
_MOST_KEPT = 1024


class CardDoor:
    """Cards are the caller's: which skills they have is a matter of what it may call."""

    def __init__(self, gate: Gate, agents: Agents, signer: CardSigner) -> None:
        self._signer = signer
        self._gate = gate
        self._agents = agents
        # When a card was first seen in its present form.
        self._changed: OrderedDict[str, float] = OrderedDict()

    async def serve(self, request: Request) -> Response:
        """Answer GET, or 304 to who has it already (RFC 9110, section 13)."""
        asked: Asked = request.state.asked
        card = await self.card(asked)
        content = MessageToDict(card)
        unsigned = {name: value for name, value in content.items() if name != "signatures"}
        digest = hashlib.sha256(json.dumps(unsigned, sort_keys=True).encode()).hexdigest()
        headers = {
            # Weak: signatures of the same card differ.
            "etag": f'W/"{digest}"',
            "cache-control": f"private, max-age={_MAX_AGE}",
            "last-modified": formatdate(self._since(f"{asked.agent} {digest}"), usegmt=True),
            "vary": "authorization, x-api-key",
        }
        known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
        if "*" in known or f'"{digest}"' in known:
            return Response(status_code=304, headers=headers)
        return Response(json.dumps(content, ensure_ascii=False), media_type="application/json", headers=headers)

    async def extended(self, asked: Asked) -> a2a.AgentCard:
        """The card for a caller who has asked for it by the operation."""
        return await self.card(asked)

    async def card(self, asked: Asked) -> a2a.AgentCard:
        """The card with the skills that the caller may call."""
        card = await self._agents.card(asked)
        made = build_card(card, asked.base_url, lambda skill: self._gate.may_call(asked, skill))
        return self._signer.sign(made, asked.base_url)

    async def keys(self, request: Request) -> Response:
        """The keys by which signatures are verified; public."""
        return JSONResponse(self._signer.key_set(), headers={"cache-control": f"public, max-age={_KEYS_AGE}"})

    def _since(self, key: str) -> float:
        since = self._changed.setdefault(key, time.time())
        self._changed.move_to_end(key)
        if len(self._changed) > _MOST_KEPT:
            self._changed.popitem(last=False)
        return since
