"""One MCP server of the mesh, its names untouched."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from agentmesh.mcp.v1 import mcp_bridge_service_pb2 as pb
from mesh.access import Principal, Target
from mesh.mcp.frames import dump_json
from services.gateway.federation import Shelf
from services.gateway.tools import Governor, ToolCall, ToolRules
from services.gateway.web.caller import Caller
from services.gateway.web.mcp.backend import Host, HostRequest
from services.gateway.web.mcp.bridges import Bridges
from services.gateway.web.mcp.policy import Policy, target_of
from services.gateway.web.mcp.sessions import Sealer
from services.gateway.web.mcp.wire import Outcome

_CALL_SECONDS = 3600.0
_OTHER_SECONDS = 60.0
_ANY_TOOL = ""


class OneServer:
    """Passes requests on to a bridge, once it is decided that the caller may make them."""

    def __init__(
        self,
        name: str,
        bridges: Bridges,
        policy: Policy,
        governor: Governor,
        sealer: Sealer,
        shelf: Callable[[], Shelf | None],
    ) -> None:
        self.name = name
        self._bridges = bridges
        self._policy = policy
        self._governor = governor
        self._sealer = sealer
        self._shelf = shelf

    def schema_with_headers(self, tool: str) -> Mapping[str, Any] | None:
        """The schema of a tool whose arguments are to be repeated in headers, as far as it is known."""
        shelf = self._shelf()
        return shelf.with_headers.get(tool) if shelf is not None else None

    async def serve(self, request: HostRequest, host: Host) -> Outcome:
        """Ask the server. Raises MeshError as `Policy.check`, `Governor.call` and `Bridges.ask` do."""
        target = target_of(self.name, request.method, request.name)
        await self._policy.check(request.caller, target)
        if request.method == "tools/call":
            if self._governor.has_pins:
                self._governor.check_pin(self._tool_call(request))
            rules = self._governor.rules_for(self.name, request.name, request.caller.principal)
            if rules is not None:
                return await self._call_by_rules(rules, request, target, host)
        return await self._pass(request, target, host)

    async def _call_by_rules(self, rules: ToolRules, request: HostRequest, target: Target, host: Host) -> Outcome:
        async def make(arguments: Mapping[str, Any]) -> tuple[bytes | None, bytes | None]:
            asked = replace(request, params={**request.params, "arguments": arguments})
            outcome = await self._pass(asked, target, host)
            return outcome.result, outcome.error

        result, error = await self._governor.call(self._tool_call(request), rules, make)
        return Outcome(result=result, error=error)

    def _tool_call(self, request: HostRequest) -> ToolCall:
        shelf, arguments = self._shelf(), request.params.get("arguments")
        offer = shelf.tools.get(request.name) if shelf is not None else None
        return ToolCall(
            self.name,
            request.name,
            arguments if isinstance(arguments, dict) else {},
            request.caller.principal,
            request.caller.correlation_id,
            offer.facts if offer is not None else None,
        )

    async def _pass(self, request: HostRequest, target: Target, host: Host) -> Outcome:
        params = dump_json(request.params)
        self._policy.inspect(request.caller, target, params)
        asked = pb.AskRequest(method=request.method, params=params, session_key=self._session_key(request))
        if request.method == "subscriptions/listen":
            return await self._bridges.talk(self.name, asked, request.caller, host, timeout=None)
        timeout = _CALL_SECONDS if request.is_long else _OTHER_SECONDS
        if request.has_only_result:
            outcome = await self._bridges.ask(self.name, asked, request.caller, timeout=timeout)
        else:
            outcome = await self._bridges.talk(
                self.name, asked, request.caller, host, timeout=timeout, can_ask=request.can_be_asked
            )
        if request.method == "tools/list" and outcome.result is not None:
            return self._only_allowed(outcome.result, request.caller)
        return outcome

    def _session_key(self, request: HostRequest) -> str:
        return self._sealer.digest(str(request.caller.principal), self.name, request.door)

    def _only_allowed(self, result: bytes, caller: Caller) -> Outcome:
        """The list without the tools that the caller may not call."""
        principal = caller.principal
        if self._may_call(principal, _ANY_TOOL) and not self._governor.has_pins:
            return Outcome(result=result)
        listed: dict[str, Any] = json.loads(result)
        tools = listed.get("tools")
        if isinstance(tools, list):
            listed["tools"] = [
                tool
                for tool in tools
                if isinstance(tool, dict)
                and self._may_call(principal, str(tool.get("name")))
                and not self._governor.is_blocked(self.name, tool)
            ]
        return Outcome(result=dump_json(listed))

    def _may_call(self, principal: Principal, tool: str) -> bool:
        return self._policy.decide(principal, target_of(self.name, "tools/call", tool)).is_allowed
