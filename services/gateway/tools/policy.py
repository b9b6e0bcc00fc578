"""The part `tools` of the mesh document, compiled: which rules a call fits is found out once for all like it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import re2

from mesh.access.target import ANYTHING
from mesh.config.document.tools import ArgumentRule, Guardrail, Redaction, ToolRetry, ToolRule, Tools
from services.gateway.tools.arguments import ArgumentCheck

_MOST_KNOWN = 4096


@dataclass(frozen=True, slots=True)
class Replacing:
    """A redaction, compiled."""

    pattern: Any
    replacement: bytes


@dataclass(frozen=True, slots=True)
class ToolRules:
    """All that holds for calls of a tool by those who have the same roles. `timeout` is in seconds, None: no bound."""

    timeout: float | None
    retry: ToolRetry | None
    arguments: tuple[ArgumentCheck, ...]
    redactions: tuple[Replacing, ...]
    guardrails: tuple[tuple[str, Guardrail], ...]


class ToolPolicy:
    """Answers for one version of the document."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._rules = tuple(rule for _, rule in sorted(tools.rules.items()))
        self._find = lru_cache(maxsize=_MOST_KNOWN)(self._compile)

    @property
    def has_pins(self) -> bool:
        """Whether the tools of any server are pinned."""
        return bool(self._tools.pins)

    def rules_for(self, server: str, tool: str, roles: Sequence[str]) -> ToolRules | None:
        """What holds for calls of a tool; None when nothing does."""
        return self._find(server, tool, tuple(roles)) if self._rules else None

    def is_bound(self, server: str, tool: str, roles: Sequence[str]) -> bool:
        """Whether there is anything about a tool that only the doors of MCP see to; ANYTHING: about any tool there."""
        pin = self._tools.pins.get(server)
        if pin is not None and pin.on_change == "block":
            return True
        if tool != ANYTHING:
            rules = self.rules_for(server, tool, roles)
            return rules is not None and bool(rules.arguments or rules.redactions or rules.guardrails)
        return any(
            rule.arguments or rule.redact or rule.guardrails for rule in self._rules if _is_for(rule, server, roles)
        )

    def pin_of(self, server: str, tool: str) -> tuple[str, Literal["block", "flag"]] | None:
        """The digest that was approved, "" for a tool that was not, and what a change means; None without a pin."""
        pin = self._tools.pins.get(server)
        return None if pin is None else (pin.tools.get(tool, ""), pin.on_change)

    def _compile(self, server: str, tool: str, roles: tuple[str, ...]) -> ToolRules | None:
        rules = [rule for rule in self._rules if _fits(rule, server, tool, roles)]
        if not rules:
            return None
        timeouts = [rule.timeout.total_seconds() for rule in rules if rule.timeout is not None]
        names = dict.fromkeys(name for rule in rules for name in rule.guardrails)
        return ToolRules(
            timeout=min(timeouts, default=None),
            retry=next((rule.retry for rule in rules if rule.retry is not None), None),
            arguments=tuple(_check(name, each) for rule in rules for name, each in sorted(rule.arguments.items())),
            redactions=tuple(_replacing(each) for rule in rules for _, each in sorted(rule.redact.items())),
            guardrails=tuple((name, self._tools.guardrails[name]) for name in names),
        )


def _fits(rule: ToolRule, server: str, tool: str, roles: Sequence[str]) -> bool:
    return _is_for(rule, server, roles) and any(_is_like(tool, pattern) for pattern in rule.tools)


def _is_for(rule: ToolRule, server: str, roles: Sequence[str]) -> bool:
    return ("*" in rule.servers or server in rule.servers) and (
        not rule.roles or any(role in roles for role in rule.roles)
    )


def _is_like(tool: str, pattern: str) -> bool:
    return tool.startswith(pattern[:-1]) if pattern.endswith("*") else tool == pattern


def _check(name: str, rule: ArgumentRule) -> ArgumentCheck:
    return ArgumentCheck(name, rule, _compiled(rule.pattern) if rule.pattern is not None else None)


def _replacing(redaction: Redaction) -> Replacing:
    # In a replacement of RE2 a backslash names a group.
    return Replacing(_compiled(redaction.pattern), redaction.replacement.replace("\\", "\\\\").encode())


def _compiled(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    return re2.compile(pattern, options)  # type: ignore[no-untyped-call]
