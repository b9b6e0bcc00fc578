"""Three tools in the place of all: for hosts whose models should not read the descriptions of a thousand tools."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mesh.errors import InvalidInput, NotFound
from mesh.mcp.frames import dump_json
from services.gateway.federation import Offer, ToolIndex
from services.gateway.federation.search import summary_of, tokens_in
from services.gateway.web.mcp.backend import HostRequest
from services.gateway.web.mcp.wire import Outcome

_MOST = 50
_USUAL = 8
_NAME = {"type": "string", "description": "Name of the tool, as search_tools gives it."}
_TOOLS: tuple[dict[str, Any], ...] = (
    {
        "name": "search_tools",
        "description": "Find tools by what they should do. Gives names and one sentence each, best first.",
        "inputSchema": {
            "type": "object",
            "properties": {
                "query": {"type": "string", "description": "What the tool should do, in a few words."},
                "limit": {"type": "integer", "minimum": 1, "maximum": _MOST, "default": _USUAL},
            },
            "required": ["query"],
        },
        "annotations": {"readOnlyHint": True},
    },
    {
        "name": "describe_tool",
        "description": "Tell all about a tool: its description, and the schemas of its arguments and result.",
        "inputSchema": {"type": "object", "properties": {"name": _NAME}, "required": ["name"]},
        "annotations": {"readOnlyHint": True},
    },
    {
        "name": "call_tool",
        "description": "Call a tool with the arguments that describe_tool tells of.",
        "inputSchema": {
            "type": "object",
            "properties": {"name": _NAME, "arguments": {"type": "object"}},
            "required": ["name"],
        },
    },
)


class ToolSearch:
    """Answers these three; the index of the last few lists of tools is kept."""

    def __init__(self) -> None:
        self._indexed: dict[int, tuple[Sequence[Offer], ToolIndex]] = {}

    def list(self, offers: Sequence[Offer], size: int) -> Outcome:
        """The three tools; "_meta" tells what it spares, `size` being the length of the list of all."""
        own = len(dump_json(_TOOLS))
        saved = {"tools": len(offers), "tokens": tokens_in(size), "saved": max(0, tokens_in(size) - tokens_in(own))}
        result = {
            "tools": _TOOLS,
            "resultType": "complete",
            "ttlMs": 0,
            "cacheScope": "private",
            "_meta": {"agentmesh/tokens": saved},
        }
        return Outcome(result=dump_json(result))

    def serve(self, request: HostRequest, offers: Sequence[Offer]) -> Outcome | HostRequest:
        """The outcome of a search or a description, or the call of a tool that is to be made.

        Raises InvalidInput for arguments that are none, NotFound for a tool that the caller does not see.
        """
        arguments = request.params.get("arguments")
        given: dict[str, Any] = arguments if isinstance(arguments, dict) else {}
        match request.name:
            case "search_tools":
                return self._found(given, offers)
            case "describe_tool":
                return Outcome(result=_result(_named(given, offers).text))
            case "call_tool":
                name = _text(given, "name")
                inner = given.get("arguments", {})
                return replace(request, params={**request.params, "name": name, "arguments": inner})
        raise NotFound(f"There is no tool {request.name[:128]!r} here.", field="params.name", fix="Use search_tools.")

    def _found(self, given: dict[str, Any], offers: Sequence[Offer]) -> Outcome:
        limit = given.get("limit", _USUAL)
        if not isinstance(limit, int) or not 1 <= limit <= _MOST:
            raise InvalidInput("limit is no number of tools.", field="arguments.limit", fix=f"Take 1 to {_MOST}.")
        found = self._index(offers).search(_text(given, "query"), limit)
        lines = [
            {"name": each.offer.shown, "description": summary_of(each.offer.facts), "score": each.score}
            for each in found
        ]
        return Outcome(result=_result(dump_json({"tools": lines})))

    def _index(self, offers: Sequence[Offer]) -> ToolIndex:
        kept = self._indexed.get(id(offers))
        if kept is None or kept[0] is not offers:
            if len(self._indexed) >= 16:
                self._indexed.clear()
            kept = self._indexed[id(offers)] = (offers, ToolIndex(offers))
        return kept[1]


def _named(given: dict[str, Any], offers: Sequence[Offer]) -> Offer:
    name = _text(given, "name")
    for offer in offers:
        if offer.shown == name:
            return offer
    raise NotFound(f"There is no tool {name[:128]!r}.", field="arguments.name", fix="Use search_tools.")


def _text(given: dict[str, Any], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidInput(f"{name} is missing.", field=f"arguments.{name}", fix="Give it as a text.")
    return value


def _result(text: bytes) -> bytes:
    """JSON of an object as the result of a tool, as text and structured."""
    words = dump_json(text.decode())
    return b'{"content":[{"type":"text","text":%s}],"structuredContent":%s,"isError":false,"resultType":"complete"}' % (
        words,
        text,
    )
