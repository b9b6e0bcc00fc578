"""All MCP servers and agents of the mesh as one server, each caller seeing what it may use."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import mesh
from mesh.access import Principal, Target
from mesh.errors import InvalidInput, MeshError, NotFound
from mesh.mcp.frames import dump_json
from services.gateway.federation import Listings, Shelves, federated_uri, split_uri
from services.gateway.federation.shelf import KINDS, OfferKind, Shelf
from services.gateway.tools import Governor
from services.gateway.web.mcp.agent_tools import AgentTools
from services.gateway.web.mcp.backend import Host, HostRequest
from services.gateway.web.mcp.one_server import OneServer
from services.gateway.web.mcp.policy import Policy, target_of
from services.gateway.web.mcp.tool_search import ToolSearch
from services.gateway.web.mcp.wire import METHOD_NOT_FOUND, SERVER_INFO, Outcome, failure

_LISTS: Mapping[str, OfferKind] = {
    "tools/list": "tools",
    "prompts/list": "prompts",
    "resources/list": "resources",
    "resources/templates/list": "resourceTemplates",
}
_METHOD_OF = {kind: method for method, kind in _LISTS.items()}
_CHANGED: Mapping[OfferKind, tuple[str, str]] = {
    "tools": ("toolsListChanged", "notifications/tools/list_changed"),
    "prompts": ("promptsListChanged", "notifications/prompts/list_changed"),
    "resources": ("resourcesListChanged", "notifications/resources/list_changed"),
    "resourceTemplates": ("resourcesListChanged", "notifications/resources/list_changed"),
}
_CAPABILITIES = {
    "tools": {"listChanged": True},
    "prompts": {"listChanged": True},
    "resources": {"listChanged": True, "subscribe": True},
    "completions": {},
    "logging": {},
}
_CALM_SECONDS = 0.05
_MOST_WATCHED = 256
_AGENT = "agentmesh.agent.v1.AgentService"


class AllServers:
    """The backend of /mcp. `searches` shows three tools for finding others in the place of all tools."""

    def __init__(
        self,
        shelves: Shelves,
        policy: Policy,
        governor: Governor,
        find_server: Callable[[str], OneServer],
        agents: AgentTools,
        ticks: Callable[[], AsyncIterator[None]],
        *,
        searches: bool = False,
    ) -> None:
        self._shelves = shelves
        self._listings = Listings()
        self._policy = policy
        self._governor = governor
        self._find_server = find_server
        self._agents = agents
        self._ticks = ticks
        self._search = ToolSearch() if searches else None

    def schema_with_headers(self, tool: str) -> Mapping[str, Any] | None:
        """That of the server."""
        found = self._shelves.split_tool(tool)
        shelf = self._shelves.find(found[0]) if found is not None else None
        return shelf.with_headers.get(found[1]) if shelf is not None and found is not None else None

    async def serve(self, request: HostRequest, host: Host) -> Outcome:
        """Answer a request, or let the server do so that it is for. Raises MeshError as `Backend.serve` does."""
        method = request.method
        if method == "tools/call":
            return await self._call(request, host)
        if kind := _LISTS.get(method):
            return await self._list(kind, request.caller.principal)
        match method:
            case "server/discover":
                return await self._discover(request.caller.principal)
            case "prompts/get":
                found = self._shelves.split_prompt(request.name)
                return await self._pass(found, "prompt", {**request.params, "name": found and found[1]}, request, host)
            case "resources/read":
                found = split_uri(request.name)
                return await self._pass(found, "resource", {**request.params, "uri": found and found[1]}, request, host)
            case "completion/complete":
                found, params = self._completed(request.params)
                return await self._pass(found, "reference", params, request, host)
            case "subscriptions/listen":
                return await self._listen(request, host)
        return failure(METHOD_NOT_FOUND, f"Method not found: {method}")

    async def _call(self, request: HostRequest, host: Host) -> Outcome:
        if self._search is not None:
            offers = (await self._visible("tools", request.caller.principal))[1]
            found = self._search.serve(request, offers)
            if isinstance(found, Outcome):
                return found
            request = found
        split = self._shelves.split_tool(request.name)
        shelf = self._shelves.find(split[0]) if split is not None else None
        if shelf is not None and shelf.kind == "agent" and split is not None:
            return await self._agents.call(*split, request, host, shelf.tools.get(split[1]))
        return await self._pass(split, "tool", {**request.params, "name": split and split[1]}, request, host)

    async def _pass(
        self,
        found: tuple[str, str] | None,
        what: str,
        params: Mapping[str, Any],
        request: HostRequest,
        host: Host,
    ) -> Outcome:
        """Let a server answer, and say in its answer where its resources are from."""
        shelf = self._shelves.find(found[0]) if found is not None else None
        if found is None or shelf is None or shelf.kind != "mcp":
            raise NotFound(
                f"There is no {what} {request.name[:128]!r}.",
                field="params.name",
                fix="List what there is, and try again.",
            )
        outcome = await self._find_server(found[0]).serve(replace(request, params=params), _Elsewhere(host, found[0]))
        if outcome.result is None or b'"uri"' not in outcome.result:
            return outcome
        return Outcome(result=dump_json(_with_origin(json.loads(outcome.result), found[0])))

    def _completed(self, params: Mapping[str, Any]) -> tuple[tuple[str, str] | None, dict[str, Any]]:
        reference = params.get("ref")
        if not isinstance(reference, dict):
            raise InvalidInput("It is not said what is to be completed.", field="params.ref")
        name, uri = reference.get("name"), reference.get("uri")
        if isinstance(name, str):
            found = self._shelves.split_prompt(name)
            return found, {**params, "ref": {**reference, "name": found and found[1]}}
        found = split_uri(uri) if isinstance(uri, str) else None
        return found, {**params, "ref": {**reference, "uri": found and found[1]}}

    async def _discover(self, principal: Principal) -> Outcome:
        shelves = await self._shelves.look()
        lines = [
            f"- {shelf.server}: {str(shelf.hello.get('instructions') or _title(shelf.hello) or shelf.kind)[:200]}"
            + (" (not available at the moment)" if shelf.problem else "")
            for shelf in shelves
            if self._may(principal)(shelf.server, "tools", "")
        ]
        how = "Names of tools and prompts begin with their server's name and two underscores."
        result = {
            "resultType": "complete",
            "supportedVersions": [],
            "capabilities": _CAPABILITIES,
            "instructions": "\n".join([how, *lines]),
            "ttlMs": 0,
            "cacheScope": "private",
            "_meta": {SERVER_INFO: {"name": "agentmesh", "title": "agentmesh", "version": mesh.__version__}},
        }
        return Outcome(result=dump_json(result))

    async def _list(self, kind: OfferKind, principal: Principal) -> Outcome:
        text, offers = await self._visible(kind, principal)
        if kind == "tools" and self._search is not None:
            return self._search.list(offers, len(text))
        return Outcome(result=text)

    async def _visible(self, kind: OfferKind, principal: Principal) -> tuple[bytes, Sequence[Any]]:
        shelves = await self._shelves.look()
        who = self._policy.likeness(principal)
        may = self._may(principal)
        text = self._listings.result(shelves, self._shelves.version, kind, who, may)
        return text, self._listings.offers(shelves, self._shelves.version, kind, who, may)

    def _may(self, principal: Principal) -> Callable[[str, OfferKind, str], bool]:
        def may(server: str, kind: OfferKind, name: str) -> bool:
            shelf = self._shelves.find(server)
            if shelf is not None and shelf.kind == "agent":
                method = "SubmitTask" if name else "GetAgentCard"
                return self._policy.decide(principal, Target(server, f"{_AGENT}/{method}", skill=name)).is_allowed
            if kind == "tools" and name:
                is_allowed = self._policy.decide(principal, target_of(server, "tools/call", name)).is_allowed
                return is_allowed and not (self._governor.has_pins and self._is_blocked(shelf, name))
            return self._policy.decide(principal, target_of(server, _METHOD_OF[kind], "")).is_allowed

        return may

    def _is_blocked(self, shelf: Shelf | None, tool: str) -> bool:
        offer = shelf.tools.get(tool) if shelf is not None else None
        return offer is None or self._governor.is_blocked(offer.server, offer.facts)

    async def _listen(self, request: HostRequest, host: Host) -> Outcome:
        """Tell what changes in what the caller sees, and resources that it watches, until cancelled."""
        wanted = request.params.get("notifications")
        wanted = wanted if isinstance(wanted, dict) else {}
        watched = [uri for uri in wanted.get("resourceSubscriptions") or () if isinstance(uri, str)][:_MOST_WATCHED]
        honoured = {name: True for name, _ in _CHANGED.values() if wanted.get(name) is True}
        accepted = {**honoured, **({"resourceSubscriptions": watched} if watched else {})}
        by_server: dict[str, list[str]] = {}
        for uri in watched:
            if found := split_uri(uri):
                by_server.setdefault(found[0], []).append(found[1])
        principal = request.caller.principal
        async with self._shelves.listen() as news, asyncio.TaskGroup() as tasks:
            seen = {kind: (await self._visible(kind, principal))[0] for kind in KINDS}
            await host.tell("notifications/subscriptions/acknowledged", dump_json({"notifications": accepted}))
            for server, uris in by_server.items():
                tasks.create_task(self._watch(server, uris, request, host))
            wake = asyncio.Event()
            tasks.create_task(_wake_by_news(news, wake))
            tasks.create_task(_wake_by_ticks(self._ticks, wake))
            while True:
                await wake.wait()
                await asyncio.sleep(_CALM_SECONDS)
                wake.clear()
                told: set[str] = set()
                for kind in KINDS:
                    text = (await self._visible(kind, principal))[0]
                    name, method = _CHANGED[kind]
                    if text != seen[kind] and name in honoured and method not in told:
                        told.add(method)
                        await host.tell(method, b"{}")
                    seen[kind] = text

    async def _watch(self, server: str, uris: list[str], request: HostRequest, host: Host) -> None:
        shelf = self._shelves.find(server)
        if shelf is None or shelf.kind != "mcp":
            return
        params = {**request.params, "notifications": {"resourceSubscriptions": uris}}
        try:
            await self._find_server(server).serve(replace(request, params=params), _Elsewhere(host, server))
        except MeshError:
            return


class _Elsewhere:
    """The way to a host for one server of several."""

    def __init__(self, host: Host, server: str) -> None:
        self._host = host
        self._server = server

    async def tell(self, method: str, params: bytes) -> None:
        if method == "notifications/subscriptions/acknowledged":
            return
        if method == "notifications/resources/updated":
            facts = json.loads(params)
            params = dump_json({**facts, "uri": federated_uri(self._server, str(facts.get("uri")))})
        await self._host.tell(method, params)

    async def ask(self, method: str, params: bytes) -> Outcome:
        return await self._host.ask(method, params)


async def _wake_by_news(news: asyncio.Queue[Any], wake: asyncio.Event) -> None:
    while True:
        await news.get()
        wake.set()


async def _wake_by_ticks(ticks: Callable[[], AsyncIterator[None]], wake: asyncio.Event) -> None:
    async for _ in ticks():
        wake.set()


def _with_origin(result: Any, server: str) -> Any:
    """A result whose resources can be read here: those of contents, links and embedded ones."""
    for each in result.get("contents") or ():
        if isinstance(each, dict) and isinstance(each.get("uri"), str):
            each["uri"] = federated_uri(server, each["uri"])
    pieces = list(result.get("content") or ())
    pieces += [message.get("content") for message in result.get("messages") or () if isinstance(message, dict)]
    for piece in pieces:
        if not isinstance(piece, dict) or piece.get("type") not in ("resource", "resource_link"):
            continue
        holder = piece.get("resource") if piece["type"] == "resource" else piece
        if isinstance(holder, dict) and isinstance(holder.get("uri"), str):
            holder["uri"] = federated_uri(server, holder["uri"])
    return result


def _title(hello: Mapping[str, Any]) -> str:
    meta = hello.get("_meta")
    info = meta.get(SERVER_INFO) if isinstance(meta, dict) else None
    return str(info.get("title") or info.get("name") or "") if isinstance(info, dict) else ""
