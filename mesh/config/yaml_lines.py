"""YAML for people: plain values, and the line on which each of them stands.

    text ──parse_yaml──> YamlText: value, flaws, line(path)

Scalars are those of YAML 1.2's core schema (https://yaml.org/spec/1.2.2/#103-core-schema), as editors take them: `on`,
`yes` and `1:30` are texts, which YAML 1.1, PyYAML's own, takes for true, true and 90.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml

Path = tuple[str | int, ...]
"""Where a value stands: keys of mappings, and places in lists from 0. An item of a list is found by its `name`, too."""

MOST_BYTES = 1 << 20
MOST_NODES = 200_000
"""Values after aliases are resolved: a few lines of them can stand for billions."""
MOST_DEPTH = 48
_MOST_FLAWS = 100
_MOST_DIGITS = 40

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_TAGGED: dict[str, type] = {
    f"{_TAG}int": int,
    f"{_TAG}float": float,
    f"{_TAG}bool": bool,
    f"{_TAG}null": type(None),
}
_NULLS = frozenset(("", "~", "null", "Null", "NULL"))
_BOOLS = {word: word.lower() == "true" for word in ("true", "True", "TRUE", "false", "False", "FALSE")}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NO_NUMBER = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_/*-]+")
_FIELD_STEP = re.compile(r'\[([0-9]+)\]|\["(.*?)"\]|([A-Za-z0-9_/*-]+)')
_MERGE = "<<"


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something that is wrong with a text; `line` counts from 1."""

    path: Path
    line: int
    reason: str


@dataclass(slots=True)
class _Node:
    """One value: a scalar, a list of nodes, or nodes by key with the line of the key."""

    line: int
    content: Any
    size: int = 1
    height: int = 1


@dataclass(frozen=True, slots=True)
class YamlText:
    """A text that was read. With flaws, `value` is None."""

    value: Any
    flaws: tuple[Flaw, ...]
    _root: _Node | None = field(repr=False, compare=False)

    def line(self, path: Sequence[str | int]) -> int:
        """The line of the deepest value on the way that is there, from 1."""
        return self.reach(path)[0]

    def reach(self, path: Sequence[str | int]) -> tuple[int, int, bool]:
        """Line and depth of the deepest value on the way that is there, and whether it and all before are mappings."""
        node = self._root
        line, depth, is_open = node.line if node else 1, 0, node is not None and isinstance(node.content, dict)
        for step in path:
            found = _step(node, step) if node is not None else None
            if found is None:
                break
            line, node = found
            depth += 1
            is_open = is_open and isinstance(node.content, dict)
        return line, depth, is_open


def parse_yaml(text: str) -> YamlText:
    """Read one YAML document. What is wrong with it is told by `flaws`; an empty text has the value None."""
    composer = _Composer()
    try:
        if len(text.encode()) > MOST_BYTES:
            return YamlText(None, (Flaw((), 1, f"this is longer than {MOST_BYTES >> 20} MB"),), None)
        composer.compose(text)
    except yaml.MarkedYAMLError as err:
        mark = err.problem_mark or err.context_mark
        composer.flaws.append(Flaw((), mark.line + 1 if mark else 1, f"this is not YAML: {err.problem or err.context}"))
    except yaml.reader.ReaderError as err:
        line = text.count("\n", 0, err.position) + 1 if isinstance(err.position, int) else 1
        composer.flaws.append(Flaw((), line, f"this is not YAML: {err.reason}"))
    except (yaml.YAMLError, UnicodeError) as err:
        composer.flaws.append(Flaw((), 1, f"this is not YAML: {str(err).splitlines()[0]}"))
    except _StoppedError:
        pass
    flaws = tuple(composer.flaws)
    return YamlText(None if flaws else _plain(composer.root), flaws, composer.root)


def field_text(path: Sequence[str | int]) -> str:
    """A path as people write it: services.financial.routes[0].timeout; a key with other characters in ["..."]."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _PLAIN_KEY.fullmatch(step):
            text += f".{step}" if text else step
        else:
            text += f'["{step}"]'
    return text


def parse_field(text: str) -> Path:
    """The path that `field_text` writes so."""
    return tuple(int(number) if number else key or word for number, key, word in _FIELD_STEP.findall(text))


def _step(node: _Node, step: str | int) -> tuple[int, _Node] | None:
    if isinstance(node.content, dict):
        return node.content.get(step)
    if not isinstance(node.content, list):
        return None
    if isinstance(step, int):
        item = node.content[step] if 0 <= step < len(node.content) else None
    else:
        item = next((item for item in node.content if _name_of(item) == step), None)
    return (item.line, item) if item is not None else None


def _name_of(node: _Node) -> Any:
    pair = node.content.get("name") if isinstance(node.content, dict) else None
    return pair[1].content if pair else None


def _plain(node: _Node | None) -> Any:
    if node is None:
        return None
    if isinstance(node.content, dict):
        return {key: _plain(value) for key, (_, value) in node.content.items()}
    if isinstance(node.content, list):
        return [_plain(item) for item in node.content]
    return node.content


class _StoppedError(Exception):
    """No use to read on; the flaw is noted."""


@dataclass(slots=True)
class _Frame:
    """A mapping or list that has begun."""

    node: _Node
    anchor: str | None
    key: str | None = None
    key_line: int = 0
    has_key: bool = False
    is_merge: bool = False
    merged: list[_Node] = field(default_factory=list)


class _Composer:
    """Makes nodes of YAML's events, within the limits."""

    def __init__(self) -> None:
        self.root: _Node | None = None
        self.flaws: list[Flaw] = []
        self._stack: list[_Frame] = []
        self._anchors: dict[str, _Node | None] = {}
        self._documents = 0

    def compose(self, text: str) -> None:
        for event in yaml.parse(text.removeprefix("\ufeff"), Loader=_Loader):
            line = event.start_mark.line + 1 if event.start_mark else 1
            match event:
                case yaml.DocumentStartEvent():
                    self._documents += 1
                    if self._documents > 1:
                        self._stop(line, "a second document begins here; keep it in a file of its own")
                case yaml.ScalarEvent():
                    node = _Node(line, self._scalar(event, line))
                    self._note_anchor(event.anchor, node)
                    self._attach(node, line, is_plain=bool(event.implicit[0]) and event.tag is None)
                case yaml.AliasEvent():
                    self._attach(self._aliased(event.anchor, line), line)
                case yaml.MappingStartEvent():
                    self._begin(_Node(line, {}), event, f"{_TAG}map")
                case yaml.SequenceStartEvent():
                    self._begin(_Node(line, []), event, f"{_TAG}seq")
                case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                    self._end()

    def _begin(self, node: _Node, event: yaml.CollectionStartEvent, tag: str) -> None:
        if event.tag not in (None, "!", tag):
            self._flaw(node.line, f"there is no tag {event.tag!r} here")
        if len(self._stack) >= MOST_DEPTH:
            self._stop(node.line, f"this is nested deeper than {MOST_DEPTH} levels")
        self._note_anchor(event.anchor, None)
        self._stack.append(_Frame(node, event.anchor))

    def _end(self) -> None:
        frame = self._stack.pop()
        for source in frame.merged:
            self._merge(frame.node, source)
        self._note_anchor(frame.anchor, frame.node)
        self._attach(frame.node, frame.node.line)

    def _attach(self, node: _Node, line: int, *, is_plain: bool = False) -> None:
        if not self._stack:
            self.root = node
            return
        frame = self._stack[-1]
        parent = frame.node
        if isinstance(parent.content, dict) and not frame.has_key:
            frame.has_key, frame.key_line = True, line
            frame.is_merge = is_plain and node.content == _MERGE
            frame.key = self._key(node, line, parent)
            return
        parent.size += node.size
        parent.height = max(parent.height, node.height + 1)
        if parent.size > MOST_NODES:
            self._stop(line, f"these are more than {MOST_NODES} values; aliases count for all that they stand for")
        if len(self._stack) + node.height > MOST_DEPTH + 1:
            self._stop(line, f"this is nested deeper than {MOST_DEPTH} levels")
        if isinstance(parent.content, list):
            parent.content.append(node)
            return
        frame.has_key = False
        if frame.is_merge:
            frame.merged.append(node)
        elif frame.key is not None:
            parent.content[frame.key] = (frame.key_line, node)

    def _key(self, node: _Node, line: int, parent: _Node) -> str | None:
        key = node.content
        if not isinstance(key, str):
            self._flaw(line, "this key must be text; put it in quotes")
            return None
        if key in parent.content:
            self._flaw(line, "this key stands here twice", key)
        return key

    def _merge(self, target: _Node, source: _Node) -> None:
        """YAML's merge key: what the target does not say itself."""
        many = source.content if isinstance(source.content, list) else [source]
        for each in many:
            if not isinstance(each.content, dict):
                self._flaw(source.line, "only mappings can be merged by <<")
                continue
            for key, pair in each.content.items():
                if target.content.setdefault(key, pair) is pair:
                    target.height = max(target.height, pair[1].height + 1)

    def _scalar(self, event: yaml.ScalarEvent, line: int) -> Any:
        text: str = event.value
        if event.tag in (None, "!", f"{_TAG}str") and not (event.tag is None and event.implicit[0]):
            return text
        value = self._resolved(text, line)
        if event.tag is not None and event.tag not in _TAGGED:
            self._flaw(line, f"there is no tag {event.tag!r} here")
        elif event.tag is not None and not isinstance(value, _TAGGED[event.tag]):
            self._flaw(line, "this is not what its tag says")
        return value

    def _resolved(self, text: str, line: int) -> Any:
        """A plain scalar by the core schema."""
        if text in _NULLS:
            return None
        if text in _BOOLS:
            return _BOOLS[text]
        is_int = _INT.fullmatch(text) is not None
        if not is_int and not _FLOAT.fullmatch(text):
            if _NO_NUMBER.fullmatch(text):
                self._flaw(line, f"{text} is no number here")
            return text
        if len(text) > _MOST_DIGITS:
            self._flaw(line, "this number has too many digits; put it in quotes if it is a text")
            return 0
        if is_int:
            return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
        number = float(text)
        if not math.isfinite(number):
            self._flaw(line, f"{text} is too large")
            return 0.0
        return number

    def _aliased(self, anchor: str | None, line: int) -> _Node:
        if anchor is None or anchor not in self._anchors:
            self._stop(line, f"there is no anchor &{anchor} before this alias")
        node = self._anchors[anchor]
        if node is None:
            self._stop(line, f"*{anchor} stands in what it stands for")
        return node

    def _note_anchor(self, anchor: str | None, node: _Node | None) -> None:
        if anchor is not None:
            self._anchors[anchor] = node

    def _flaw(self, line: int, reason: str, *steps: str) -> None:
        self.flaws.append(Flaw((*self._path(), *steps), line, reason))
        if len(self.flaws) >= _MOST_FLAWS:
            raise _StoppedError

    def _stop(self, line: int, reason: str) -> NoReturn:
        self._flaw(line, reason)
        raise _StoppedError

    def _path(self) -> Path:
        path: list[str | int] = []
        for frame in self._stack:
            if isinstance(frame.node.content, list):
                path.append(len(frame.node.content))
            elif frame.has_key and frame.key is not None:
                path.append(frame.key)
        return tuple(path)
