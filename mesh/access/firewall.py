"""Patterns that requests must not have, as the mesh document gives them.

A net for what scanners and clumsy attacks look like, not a proof: services must check what they are given.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

import re2

from mesh.config.document.edge import Firewall as FirewallPolicy

_DEEPEST = 32
_MOST_TEXTS = 10_000


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that a request fits. `blocks` tells whether it is refused for that."""

    rule: str
    where: str
    blocks: bool
    description: str


class Firewall:
    """Compiled rules. Each place of a request is looked at by one expression first, which fits hardly ever."""

    def __init__(self, policy: FirewallPolicy) -> None:
        self._rules: dict[str, list[tuple[Any, Finding, str | None]]] = {}
        if not policy.enabled:
            return
        options = re2.Options()
        options.case_sensitive = False
        options.log_errors = False
        for name, rule in sorted(policy.rules.items()):
            blocks = rule.action == "block" and policy.mode == "block"
            finding = Finding(name, rule.where, blocks, rule.description)
            pattern = re2.compile(rule.pattern, options)  # type: ignore[no-untyped-call]
            self._rules.setdefault(rule.where, []).append((pattern, finding, rule.header))

    @property
    def looks_at_bodies(self) -> bool:
        """Whether any rule is about bodies."""
        return "body" in self._rules

    def inspect(self, path: str, headers: Mapping[str, str], body: bytes = b"") -> Finding | None:
        """The first rule that a request fits, one that blocks before one that does not; None for a good request.

        `path` is the one of the request with its query, as it came; `body` a text or JSON, b"" when there is none.
        """
        found: Finding | None = None
        for finding in self._findings(path, headers, body):
            if finding.blocks:
                return finding
            found = found or finding
        return found

    def _findings(self, path: str, headers: Mapping[str, str], body: bytes) -> Iterator[Finding]:
        bare, _, query = path.partition("?")
        for where, text in (("path", bare), ("query", query)):
            if rules := self._rules.get(where) if text else None:
                forms = _decoded(text)
                for pattern, finding, _ in rules:
                    if any(pattern.search(form) for form in forms):
                        yield finding
        if rules := self._rules.get("header"):
            for pattern, finding, header in rules:
                values = (headers.get(header, ""),) if header is not None else headers.values()
                if any(pattern.search(value) for value in values if value):
                    yield finding
        if body and (rules := self._rules.get("body")):
            for text in _texts(body):
                for pattern, finding, _ in rules:
                    if pattern.search(text):
                        yield finding


def _decoded(text: str) -> tuple[str, ...]:
    """A text as it is, decoded, and decoded twice, as some servers do it."""
    if "%" not in text and "+" not in text:
        return (text,)
    once = unquote_plus(text)
    return tuple(dict.fromkeys((text, once, unquote_plus(once))))


def _texts(body: bytes) -> Iterator[str]:
    """The texts of a JSON document; of anything else the text itself."""
    text = body.decode(errors="replace")
    try:
        todo: list[tuple[Any, int]] = [(json.loads(text), 0)]
    except (ValueError, RecursionError):
        yield text
        return
    seen = 0
    while todo and seen < _MOST_TEXTS:
        value, depth = todo.pop()
        seen += 1
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict) and depth < _DEEPEST:
            todo += [(item, depth + 1) for pair in value.items() for item in pair]
        elif isinstance(value, list) and depth < _DEEPEST:
            todo += [(item, depth + 1) for item in value]
