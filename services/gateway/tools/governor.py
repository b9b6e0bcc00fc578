"""Makes a call of a tool as the rules want it."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agentmesh.gateway.v1 import guardrail_service_pb2 as pb
from mesh.access import Principal
from mesh.errors import DeadlineExceeded, PermissionDenied, Unavailable
from mesh.mcp.convert import tool_to_proto
from mesh.mcp.digest import tool_digest
from mesh.mcp.frames import dump_json
from mesh.telemetry import get_logger
from services.gateway.tools.guardrails import Guardrails
from services.gateway.tools.policy import ToolPolicy, ToolRules
from services.gateway.tools.redaction import redact

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call. `told` is what the server says of the tool, as far as it is known; `arguments` are as in the request."""

    server: str
    tool: str
    arguments: Mapping[str, Any]
    principal: Principal
    correlation_id: str = ""
    told: Mapping[str, Any] | None = None

    @property
    def may_be_repeated(self) -> bool:
        """Whether the tool says that calling it twice does no harm."""
        hints = (self.told or {}).get("annotations")
        return isinstance(hints, dict) and (hints.get("readOnlyHint") is True or hints.get("idempotentHint") is True)


Make = Callable[[Mapping[str, Any]], Awaitable[tuple[bytes | None, bytes | None]]]
"""Makes the call with arguments; gives its result and its error, one of them None."""


class Governor:
    """Decides by the newest policy; None before there is one, and then no rule holds."""

    def __init__(self, policy: Callable[[], ToolPolicy | None], guardrails: Guardrails) -> None:
        self._policy = policy
        self._guardrails = guardrails
        self._flagged: set[tuple[str, str, str]] = set()

    def rules_for(self, server: str, tool: str, principal: Principal) -> ToolRules | None:
        """What holds for calls of a tool by somebody; None: nothing, and `call` is not needed."""
        policy = self._policy()
        return policy.rules_for(server, tool, principal.roles) if policy is not None else None

    @property
    def has_pins(self) -> bool:
        """Whether the tools of any server are pinned."""
        policy = self._policy()
        return policy is not None and policy.has_pins

    def is_blocked(self, server: str, told: Mapping[str, Any]) -> bool:
        """Whether a tool is another one than was approved, and must not be used for that. The log tells it once."""
        policy, name = self._policy(), told.get("name")
        pin = policy.pin_of(server, name) if policy is not None and isinstance(name, str) else None
        if pin is None:
            return False
        approved, on_change = pin
        digest = _digest(told)
        if digest == approved:
            return False
        if (server, str(name), digest) not in self._flagged:
            self._flagged.add((server, str(name), digest))
            what = "changed" if approved else "new"
            _log.warning("tool_not_approved", server=server, tool=name, what=what, digest=digest, then=on_change)
        return on_change == "block"

    def check_pin(self, call: ToolCall) -> None:
        """Raise PermissionDenied for a tool that is blocked, or of which it is not known whether it should be."""
        policy = self._policy()
        pin = policy.pin_of(call.server, call.tool) if policy is not None else None
        if pin is None or pin[1] == "flag":
            return
        if call.told is None or self.is_blocked(call.server, call.told):
            raise PermissionDenied(
                f"The tool {call.tool[:128]} of {call.server} is not the one that was approved.",
                reason="TOOL_NOT_APPROVED",
                service=call.server,
                fix=f"Let an operator look at `meshctl tools {call.server} --changed`.",
            )

    async def call(self, call: ToolCall, rules: ToolRules, make: Make) -> tuple[bytes | None, bytes | None]:
        """Make a call by its rules; gives its result and its error, one of them None.

        Raises InvalidInput for arguments that a rule refuses, PermissionDenied and Unavailable by guardrails,
        DeadlineExceeded after the time of a rule, and what `make` raises.
        """
        for check in rules.arguments:
            check.check(call.arguments)
        if rules.timeout is None:
            return await self._call(call, rules, make)
        try:
            async with asyncio.timeout(rules.timeout) as limit:
                return await self._call(call, rules, make)
        except TimeoutError:
            if not limit.expired():
                raise
            raise DeadlineExceeded(
                f"{call.tool[:128]} of {call.server} has not answered within {rules.timeout:g} s.",
                reason="TOOL_TIMEOUT",
                service=call.server,
                fix="Ask for less, or ask an operator for more time.",
            ) from None

    async def _call(self, call: ToolCall, rules: ToolRules, make: Make) -> tuple[bytes | None, bytes | None]:
        arguments, asked = call.arguments, None
        if rules.guardrails:
            asked = _invocation(call)
            checked = await self._guardrails.before(rules.guardrails, asked)
            if checked is not asked:
                asked, arguments = checked, json.loads(checked.arguments)
        result, error = await self._make(call, rules, make, arguments)
        if error is not None:
            return None, redact(error, rules.redactions)
        result = redact(result or b"{}", rules.redactions)
        if asked is not None:
            # After redaction: what nobody is to see is nothing for guardrails either.
            result = await self._guardrails.after(rules.guardrails, asked, result)
        return result, None

    async def _make(
        self, call: ToolCall, rules: ToolRules, make: Make, arguments: Mapping[str, Any]
    ) -> tuple[bytes | None, bytes | None]:
        retry = rules.retry if call.may_be_repeated else None
        pause = retry.backoff.total_seconds() if retry is not None else 0.0
        for attempt in range(1, (retry.attempts if retry is not None else 1) + 1):
            try:
                return await make(arguments)
            except Unavailable as err:
                if retry is None or attempt == retry.attempts:
                    raise
                _log.info("tool_call_repeated", server=call.server, tool=call.tool, attempt=attempt, error=str(err))
            await asyncio.sleep(pause)
            pause *= 2
        raise AssertionError("the last attempt returns or raises")


def _digest(told: Mapping[str, Any]) -> str:
    """That of a tool; "?", which fits nothing, of what is none."""
    try:
        return tool_digest(tool_to_proto(dict(told)))
    except (ValueError, TypeError, KeyError):
        return "?"


def _invocation(call: ToolCall) -> pb.ToolInvocation:
    return pb.ToolInvocation(
        server=call.server,
        tool=call.tool,
        arguments=dump_json(call.arguments),
        principal=str(call.principal),
        roles=call.principal.roles,
        correlation_id=call.correlation_id,
    )
