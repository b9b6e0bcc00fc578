"""The judgement of a change: which revision a refusal is about, who gets a change first, what in a document caused it.

Pure: no clock, no I/O. A refusal counts against a revision only when the refused resource is another one than the
revision before would give the same proxy; what a proxy refuses in any case says nothing about a change.
"""

import hashlib
import json
import math
import re
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.json_format import MessageToDict

from mesh.xds import names
from mesh.xds.descriptors import envoy_message, envoy_pool
from mesh.xds.resources import Resource
from mesh.xds.snapshot import Snapshot

Changed = Mapping[str, Mapping[str, str | None]]
"""Versions by type URL and name; None for a resource that is gone."""

_MASK = "***"
_WORD = re.compile(r"[a-z]{3,}")
# Words of paths and of Envoy's complaints that tell nothing.
_COMMON = frozenset({"services", "routes", "match", "the", "and", "not", "must", "for", "defaults", "regex", "headers"})


@dataclass(frozen=True, slots=True)
class ChangedField:
    """One field that a revision changed: its path in the document, and its new value as text."""

    path: str
    value: str


@dataclass(frozen=True, slots=True)
class ResourceChange:
    """One resource of one proxy that a change adds (`before` is empty), changes, or removes (`after` is empty)."""

    node_id: str
    type: str
    name: str
    before: str = field(repr=False)
    after: str = field(repr=False)


def changed_resources(before: Snapshot, after: Snapshot) -> Changed:
    """The resources that differ, with their new versions."""
    found: dict[str, dict[str, str | None]] = {}
    for url in names.SHORT_NAMES:
        old, new = before.of(url), after.of(url)
        changed: dict[str, str | None] = {
            name: new[name].version for name in new if name not in old or old[name].version != new[name].version
        }
        changed |= {name: None for name in old if name not in new}
        if changed:
            found[url] = changed
    return found


def find_culprit(candidates: Sequence[Snapshot], type_url: str, refused: Mapping[str, str]) -> int | None:
    """Which candidate brought a refused resource: the position of the first that has it while the one before has not.

    `candidates` are the snapshots that one proxy gets by each revision, oldest first; the first is known to be good and
    never at fault. None when the proxy would have been sent the resource without any of the changes, too.
    """
    versions = [
        {name: found.version for name, found in snapshot.of(type_url).items() if name in refused}
        for snapshot in candidates
    ]
    for position in range(1, len(versions)):
        for name, version in refused.items():
            if versions[position].get(name) == version != versions[position - 1].get(name):
                return position
    return None


def choose_first(nodes: Collection[str], percent: float, seed: str) -> frozenset[str]:
    """The proxies that get a change first: `percent` of them, at least one, the same for the same seed."""
    if not nodes:
        return frozenset()
    count = max(1, math.floor(len(nodes) * percent / 100))
    ranked = sorted(nodes, key=lambda node: hashlib.sha256(f"{seed} {node}".encode()).digest())
    return frozenset(ranked[:count])


def find_cause(changes: Iterable[ChangedField], resources: Iterable[str], message: str) -> ChangedField | None:
    """The changed field that most likely caused a refusal; None when the revision changed nothing.

    The new value in Envoy's words counts most, then the service that the resource is about, then words that the path
    and the complaint share.
    """
    said, about = message.lower(), " ".join(resources).lower()
    words = set(_WORD.findall(said.replace("_", " ")))
    best: tuple[float, ChangedField] | None = None
    for change in changes:
        score = _likelihood(change, said, about, words)
        if best is None or score > best[0]:
            best = (score, change)
    return best[1] if best is not None else None


def _likelihood(change: ChangedField, said: str, about: str, words: set[str]) -> float:
    value = change.value.lower().strip('"')
    score = 0.0
    if len(value) > 2 and value in said:
        # A word such as "maglev" may be what the complaint is about in passing; "(?!x)" is not.
        score += 3.0 if value.isalpha() else 10.0
    parts = re.split(r"[.\[\]]+", change.path)
    if len(parts) > 1 and parts[0] == "services" and re.search(rf"(?<![\w-]){re.escape(parts[1])}(?![\w-])", about):
        score += 4.0
    path_words = {word for word in _WORD.findall(change.path.lower().replace("_", " ")) if word not in _COMMON}
    return score + 2.5 * len(path_words & words)


class Vetoes:
    """How often the proxies of one identity may have a change undone: `most` times in `seconds`, then no more.

    A proxy can refuse what is good. So its service gets a bounded number of vetoes; refusals beyond that hold back
    nothing but its own resources.
    """

    def __init__(self, *, clock: Callable[[], float], most: int = 3, seconds: float = 3600.0) -> None:
        self._clock = clock
        self._most = most
        self._seconds = seconds
        self._used: dict[str, deque[float]] = {}

    def has(self, identity: str) -> bool:
        """True while there is a veto left."""
        since = self._clock() - self._seconds
        return sum(time > since for time in self._used.get(identity, ())) < self._most

    def use(self, identity: str) -> bool:
        """Take one veto; False when there is none left."""
        since = self._clock() - self._seconds
        self._used = {who: times for who, times in self._used.items() if times[-1] > since}
        if not self.has(identity):
            return False
        self._used.setdefault(identity, deque(maxlen=self._most)).append(self._clock())
        return True


def resource_changes(
    node_id: str, before: Snapshot, after: Snapshot, secrets: Collection[str]
) -> Iterator[ResourceChange]:
    """The resources of a proxy that differ, sorted by type and name, in Envoy's JSON form, without `secrets`."""
    for url, changed in sorted(changed_resources(before, after).items(), key=lambda item: names.SHORT_NAMES[item[0]]):
        for name in sorted(changed):
            old, new = before.of(url).get(name), after.of(url).get(name)
            yield ResourceChange(
                node_id,
                names.SHORT_NAMES[url],
                name,
                resource_text(old, secrets) if old is not None else "",
                resource_text(new, secrets) if new is not None else "",
            )


def resource_text(resource: Resource, secrets: Collection[str]) -> str:
    """A resource as people read it: indented JSON in which every one of `secrets` is masked, wherever it stands."""
    message = envoy_message(resource.type_url.rpartition("/")[2]).FromString(resource.body)
    plain = MessageToDict(message, preserving_proto_field_name=True, descriptor_pool=envoy_pool())
    # Longest first: one secret may hold another.
    hidden = sorted((secret for secret in set(secrets) if secret), key=len, reverse=True)
    return json.dumps(_masked(plain, hidden), indent=1, sort_keys=True, ensure_ascii=False)


def _masked(value: Any, secrets: Sequence[str]) -> Any:
    if isinstance(value, dict):
        return {_masked(key, secrets): _masked(inner, secrets) for key, inner in value.items()}
    if isinstance(value, list):
        return [_masked(inner, secrets) for inner in value]
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, _MASK)
    return value
