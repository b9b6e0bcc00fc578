"""One MCP server of the mesh, its names untouched."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from agentmesh.mcp.v1 import mcp_bridge_service_pb2 as pb
from mesh.access import Principal
from mesh.mcp.frames import dump_json
from services.gateway.federation import Shelf
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
        self, name: str, bridges: Bridges, policy: Policy, sealer: Sealer, shelf: Callable[[], Shelf | None]
    ) -> None:
        self.name = name
        self._bridges = bridges
        self._policy = policy
        self._sealer = sealer
        self._shelf = shelf

    def schema_with_headers(self, tool: str) -> Mapping[str, Any] | None:
        """The schema of a tool whose arguments are to be repeated in headers, as far as it is known."""
        shelf = self._shelf()
        return shelf.with_headers.get(tool) if shelf is not None else None

    async def serve(self, request: HostRequest, host: Host) -> Outcome:
        """Ask the server. Raises MeshError as `Policy.check` and `Bridges.ask` do."""
        target = target_of(self.name, request.method, request.name)
        await self._policy.check(request.caller, target)
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
        if self._may_call(principal, _ANY_TOOL):
            return Outcome(result=result)
        listed: dict[str, Any] = json.loads(result)
        tools = listed.get("tools")
        if isinstance(tools, list):
            listed["tools"] = [
                tool for tool in tools if isinstance(tool, dict) and self._may_call(principal, str(tool.get("name")))
            ]
        return Outcome(result=dump_json(listed))

    def _may_call(self, principal: Principal, tool: str) -> bool:
        return self._policy.decide(principal, target_of(self.name, "tools/call", tool)).is_allowed
