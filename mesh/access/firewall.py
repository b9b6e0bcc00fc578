"""Patterns that requests must not have, as the mesh document gives them.

    path, query, headers, body ──decoded──> texts ──one expression for each place──> hardly ever: rule by rule

A net for what scanners and clumsy attacks look like, not a proof: services must check what they are given.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

import re2

from mesh.config.document.edge import Firewall as FirewallPolicy

_DEEPEST = 32
_FORM = "application/x-www-form-urlencoded"
_ANCHORED = re.compile(r"\\[Az]|(?<!\\)\(\?[^:P<]")
"""What means something else in lines than in a text: \\A, \\z, flags."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that a request fits. `blocks` tells whether it is refused for that."""

    rule: str
    where: str
    blocks: bool
    description: str


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: Any
    finding: Finding
    header: str | None


class _Place:
    """The rules of one place. `search` is asked with all texts at once, one to a line, and fits if any rule may."""

    def __init__(self, rules: Sequence[tuple[str, _Rule]]) -> None:
        # Those that block come first: a request is refused whatever else is to be noted.
        self.rules = tuple(rule for _, rule in sorted(rules, key=lambda pair: not pair[1].finding.blocks))
        self._search = _join([pattern for pattern, _ in rules])

    def may_fit(self, texts: Sequence[str]) -> bool:
        """Whether looking at each rule is worth while."""
        return bool(texts) and (self._search is None or self._search(_encode("\n".join(texts))) is not None)


class Firewall:
    """Compiled rules; what is looked for takes time in proportion to the length of the request only."""

    def __init__(self, policy: FirewallPolicy) -> None:
        places: dict[str, list[tuple[str, _Rule]]] = {}
        for name, rule in sorted(policy.rules.items()) if policy.enabled else ():
            blocks = rule.action == "block" and policy.mode == "block"
            finding = Finding(name, rule.where, blocks, rule.description)
            compiled = _Rule(_compile(rule.pattern), finding, rule.header)
            places.setdefault(rule.where, []).append((rule.pattern, compiled))
        self._places = {where: _Place(rules) for where, rules in places.items()}

    @property
    def looks_at_bodies(self) -> bool:
        """Whether any rule is about bodies."""
        return "body" in self._places

    def inspect(self, path: str, headers: Mapping[str, str], body: bytes = b"") -> Finding | None:
        """The first rule that a request fits, one that blocks before one that does not; None for a good request.

        `path` is the one of the request with its query, as it came; `body` a text or JSON, or the form that the header
        content-type says it is, b"" when there is none.
        """
        found: Finding | None = None
        for finding in self._findings(path, headers, body):
            if finding.blocks:
                return finding
            found = found or finding
        return found

    def _findings(self, path: str, headers: Mapping[str, str], body: bytes) -> Iterator[Finding]:
        bare, _, query = path.partition("?")
        if place := self._places.get("path"):
            yield from _hits(place, _decoded(bare))
        if query and (place := self._places.get("query")):
            yield from _hits(place, _parameters(query))
        if (place := self._places.get("header")) and place.may_fit(values := tuple(headers.values())):
            for rule in place.rules:
                looked_at = values if rule.header is None else (headers.get(rule.header, ""),)
                if any(rule.pattern.search(_encode(value)) for value in looked_at):
                    yield rule.finding
        if body and (place := self._places.get("body")):
            is_form = headers.get("content-type", "").lower().startswith(_FORM)
            yield from _hits(place, tuple(_fields(body) if is_form else _texts(body)))


def _hits(place: _Place, texts: Sequence[str]) -> Iterator[Finding]:
    if place.may_fit(texts):
        encoded = [_encode(text) for text in texts]
        for rule in place.rules:
            if any(rule.pattern.search(text) for text in encoded):
                yield rule.finding


def _join(patterns: Sequence[str]) -> Callable[[bytes], object] | None:
    """Searches for all patterns at once in lines; None when they cannot be joined, and each has to be looked for."""
    if any(_ANCHORED.search(pattern) for pattern in patterns):
        return None
    joined = "|".join(f"(?:{pattern})" for pattern in patterns)
    try:
        search: Callable[[bytes], object] = _compile(f"(?m:{joined})").search
    except re2.error:
        # Too large together, or two have groups of one name.
        return None
    return search


def _compile(pattern: str) -> Any:
    options = re2.Options()
    options.case_sensitive = False
    options.log_errors = False
    # Nobody asks what a group holds, and without groups RE2 need not find out.
    options.never_capture = True
    return re2.compile(pattern, options)  # type: ignore[no-untyped-call]


def _encode(text: str) -> bytes:
    """Bytes are searched four times as fast as texts; JSON can hold halves of characters, which have no bytes."""
    return text.encode(errors="replace")


def _parameters(query: str) -> tuple[str, ...]:
    """NAME=VALUE of each parameter, in all forms."""
    if "%" not in query and "+" not in query:
        return tuple(query.split("&"))
    return tuple(form for parameter in query.split("&") for form in _decoded(parameter, plus=True))


def _fields(form: bytes) -> Iterator[str]:
    """Names and values of a form."""
    for field in form.decode(errors="replace").split("&"):
        for text in field.split("=", 1):
            yield from _decoded(text, plus=True)


def _decoded(text: str, *, plus: bool = False) -> tuple[str, ...]:
    """A text as it is, decoded, and decoded twice, as some servers do it; in queries a plus is a space."""
    if "%" not in text and not (plus and "+" in text):
        return (text,)
    # A plus in a path stays one, which no pattern minds.
    once = unquote_plus(text)
    return tuple(dict.fromkeys((text, once, unquote_plus(once))))


def _texts(body: bytes) -> Iterator[str]:
    """The texts of a JSON document, names included; of anything else, and of what is too much, the text itself."""
    text = body.decode(errors="replace")
    try:
        todo: list[tuple[Any, int]] = [(json.loads(text), 0)]
    except (ValueError, RecursionError):
        yield text
        return
    while todo:
        value, depth = todo.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict | list):
            if depth == _DEEPEST:
                yield text
                return
            items = value if isinstance(value, list) else (item for pair in value.items() for item in pair)
            todo += [(item, depth + 1) for item in items]
