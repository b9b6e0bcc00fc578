"""Where shelves are filled from: bridges of MCP servers, and the cards of agents."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc

import mesh
from agentmesh.agent.v1 import agent_pb2
from agentmesh.agent.v1 import agent_service_pb2 as agent_service
from agentmesh.agent.v1 import agent_service_pb2_grpc as agent_grpc
from agentmesh.mcp.v1 import mcp_bridge_service_pb2 as pb
from mesh.access import ANONYMOUS
from mesh.errors import Internal
from mesh.mcp.frames import dump_json
from services.gateway.channels import Channels
from services.gateway.federation.shelf import OfferKind, read_list
from services.gateway.web.caller import Caller
from services.gateway.web.mcp.bridges import Bridges, error_of
from services.gateway.web.mcp.wire import (
    CLIENT_CAPABILITIES,
    CLIENT_INFO,
    METHOD_NOT_FOUND,
    MODERN,
    PROTOCOL_VERSION,
    Outcome,
    failure,
)

SELF = Caller(ANONYMOUS)
"""Who asks when nobody has asked: what servers offer is the same for all, and filtered by who looks."""

_TIMEOUT = 10.0
_MOST_PAGES = 100
_CARD_SECONDS = 60.0
_LIST_METHODS: Mapping[OfferKind, str] = {
    "tools": "tools/list",
    "prompts": "prompts/list",
    "resources": "resources/list",
    "resourceTemplates": "resources/templates/list",
}
_CAPABILITY: Mapping[OfferKind, str] = {
    "tools": "tools",
    "prompts": "prompts",
    "resources": "resources",
    "resourceTemplates": "resources",
}
_CHANGES: Mapping[str, tuple[OfferKind, ...]] = {
    "notifications/tools/list_changed": ("tools",),
    "notifications/prompts/list_changed": ("prompts",),
    "notifications/resources/list_changed": ("resources", "resourceTemplates"),
}
_META = {
    PROTOCOL_VERSION: MODERN[0],
    CLIENT_INFO: {"name": "agentmesh", "version": mesh.__version__},
    CLIENT_CAPABILITIES: {},
}


class BridgeSource:
    """An MCP server, by its bridge."""

    def __init__(self, server: str, bridges: Bridges, session_key: str) -> None:
        self._server = server
        self._bridges = bridges
        self._session_key = session_key
        self._capabilities: Mapping[str, Any] = {}

    async def hello(self) -> Mapping[str, Any]:
        """What the server says of itself."""
        hello = json.loads(await self._ask("server/discover", {}))
        capabilities = hello.get("capabilities")
        self._capabilities = capabilities if isinstance(capabilities, dict) else {}
        return hello if isinstance(hello, dict) else {}

    async def list(self, kind: OfferKind) -> list[Any]:
        """All pages of a list; nothing when the server has no such."""
        if _CAPABILITY[kind] not in self._capabilities:
            return []
        found: list[Any] = []
        cursor = ""
        for _ in range(_MOST_PAGES):
            page, cursor = read_list(await self._ask(_LIST_METHODS[kind], {"cursor": cursor} if cursor else {}), kind)
            found += page
            if not cursor:
                break
        return found

    @asynccontextmanager
    async def changes(self) -> AsyncIterator[AsyncIterator[OfferKind]]:
        """Listen; a server that cannot tell is one that never changes."""
        wanted = {"toolsListChanged": True, "promptsListChanged": True, "resourcesListChanged": True}
        listening = _Listening()
        request = self._request("subscriptions/listen", {"notifications": wanted})
        task = asyncio.create_task(self._bridges.talk(self._server, request, SELF, listening, timeout=None))
        try:
            await asyncio.wait(
                {task, asyncio.ensure_future(listening.is_heard.wait())},
                timeout=_TIMEOUT,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if task.done() and task.exception() is not None:
                task.result()
            yield listening.changes(task)
        finally:
            listening.is_heard.set()
            task.cancel()

    async def _ask(self, method: str, params: dict[str, Any]) -> bytes:
        outcome = await self._bridges.ask(self._server, self._request(method, params), SELF, timeout=_TIMEOUT)
        if outcome.result is not None:
            return outcome.result
        error = json.loads(outcome.error or b"{}")
        if error.get("code") == METHOD_NOT_FOUND:
            return b"{}"
        raise Internal(f"{self._server} does not answer {method}: {error.get('message')}", service=self._server)

    def _request(self, method: str, params: dict[str, Any]) -> pb.AskRequest:
        return pb.AskRequest(method=method, params=dump_json({**params, "_meta": _META}), session_key=self._session_key)


class _Listening:
    """The end of a subscription."""

    def __init__(self) -> None:
        self.is_heard = asyncio.Event()
        self._dirty: dict[OfferKind, None] = {}
        self._wake = asyncio.Event()

    async def tell(self, method: str, params: bytes) -> None:
        if method == "notifications/subscriptions/acknowledged":
            self.is_heard.set()
        self._dirty.update(dict.fromkeys(_CHANGES.get(method, ())))
        self._wake.set()

    async def ask(self, method: str, params: bytes) -> Outcome:
        return failure(METHOD_NOT_FOUND, "There is nobody to ask.")

    async def changes(self, task: asyncio.Task[Outcome]) -> AsyncIterator[OfferKind]:
        """What changes; ends when the server ends the subscription, raises what the way to it raises."""
        task.add_done_callback(lambda _: self._wake.set())
        while True:
            while self._dirty:
                kind = next(iter(self._dirty))
                del self._dirty[kind]
                yield kind
            if task.done():
                outcome = task.result()
                if outcome.error is None:
                    return
                # It cannot tell. Whoever asks looks again from time to time.
                await asyncio.Event().wait()
            self._wake.clear()
            await self._wake.wait()


class AgentSource:
    """An agent, whose skills are tools."""

    def __init__(self, agent: str, channels: Channels) -> None:
        self._agent = agent
        self._channels = channels
        self._card = agent_pb2.AgentCard()

    async def hello(self) -> Mapping[str, Any]:
        """What the agent says of itself."""
        await self._read_card()
        return {"instructions": self._card.description}

    async def list(self, kind: OfferKind) -> list[Any]:
        """Its skills as tools; it has nothing else."""
        if kind != "tools":
            return []
        await self._read_card()
        return [_tool_of(skill) for skill in self._card.skills]

    @asynccontextmanager
    async def changes(self) -> AsyncIterator[AsyncIterator[OfferKind]]:
        """A card may be another one after a while: agents do not tell."""

        async def look_again() -> AsyncIterator[OfferKind]:
            while True:
                await asyncio.sleep(_CARD_SECONDS)
                yield "tools"

        yield look_again()

    async def _read_card(self) -> None:
        async with self._channels.use(self._agent) as channel:
            stub: Any = agent_grpc.AgentServiceStub(channel)
            try:
                response = await stub.GetAgentCard(agent_service.GetAgentCardRequest(), timeout=_TIMEOUT)
            except grpc.aio.AioRpcError as err:
                raise error_of(self._agent, err) from err
        self._card = response.card


def _tool_of(skill: agent_pb2.Skill) -> dict[str, Any]:
    text = {"type": "string", "description": "What the agent is to do, in words."}
    by_words = {"type": "object", "properties": {"text": text}, "required": ["text"]}
    tool: dict[str, Any] = {
        "name": skill.id,
        "title": skill.name,
        "description": skill.description,
        "inputSchema": _schema(skill.input_schema) or by_words,
    }
    if output := _schema(skill.output_schema):
        tool["outputSchema"] = output
    return tool


def _schema(text: bytes) -> dict[str, Any] | None:
    """A schema of objects, as tools have it; None for any other."""
    try:
        schema = json.loads(text) if text else None
    except ValueError:
        return None
    return schema if isinstance(schema, dict) and schema.get("type") == "object" else None
