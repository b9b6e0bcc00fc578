"""What a client has asked for and has been sent, for one resource type of one stream. Plain data, no I/O.

Source: https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol ; the differences between what it says and
what Envoy 1.40 does are noted where they matter.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from mesh.xds.resources import Resource
from mesh.xds.snapshot import ByName

_PARTIAL = "Error adding/updating "
"""How a NACK of Envoy begins that is about clusters or listeners one by one; it has taken the others."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the next response of a type holds. One that `is_owed` is sent even when it holds nothing."""

    resources: tuple[Resource, ...] = ()
    removed: tuple[str, ...] = ()
    is_owed: bool = False

    def __bool__(self) -> bool:
        return bool(self.resources or self.removed or self.is_owed)


@dataclass(slots=True)
class DeltaSubscription:
    """State of one type on a delta stream.

    `sent` maps names to the versions that the client has, or was sent. `missing` are names that it was told do not
    exist. `forced` are names that must be sent although their version is known: asked for anew, or needed by a cluster
    that is warming. `held` maps names to versions that the client has refused; they are not sent again.
    `outstanding` is what the response that is not acknowledged yet holds and `gone` what it removes, `before` what the
    client had of both.
    `is_answered` tells that a response has been sent: who asks for all that there is must hear, too, that there is
    nothing, or Envoy never becomes live.

    `dirty` are the names that may be due, so that a plan looks at what has changed and not at all that there is;
    `is_all_dirty` stands for every name. Whoever changes what is available says so by `note_changed`.
    """

    is_wildcard: bool = False
    names: set[str] = field(default_factory=set)
    sent: dict[str, str] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    forced: set[str] = field(default_factory=set)
    held: dict[str, str] = field(default_factory=dict)
    nonce: str = ""
    outstanding: dict[str, str] = field(default_factory=dict)
    gone: tuple[str, ...] = ()
    before: dict[str, str] = field(default_factory=dict)
    is_first: bool = True
    is_answered: bool = False
    dirty: set[str] = field(default_factory=set)
    is_all_dirty: bool = False

    @property
    def may_be_due(self) -> bool:
        """False when there is certainly nothing to send now."""
        if self.nonce or self.is_first:
            return False
        return bool(self.dirty or self.is_all_dirty or (self.is_wildcard and not self.is_answered))

    @property
    def is_waiting(self) -> bool:
        """True while a response is not acknowledged: nothing else of this type is sent until then."""
        return bool(self.nonce)

    def subscribe(
        self,
        subscribe: Collection[str],
        unsubscribe: Collection[str],
        initial_versions: Mapping[str, str],
        *,
        may_be_wildcard: bool,
    ) -> None:
        """Take the names of a request. `initial_versions` is what the client has from an earlier stream."""
        if self.is_first:
            self.is_first = False
            self.is_wildcard = self.is_all_dirty = may_be_wildcard and not subscribe
            self.sent.update(initial_versions)
            self.dirty.update(initial_versions)
        else:
            # They are of an earlier stream, and said at the beginning of this one.
            initial_versions = {}
        for name in subscribe:
            if name == "*":
                self.is_wildcard = self.is_all_dirty = True
                continue
            self.names.add(name)
            self.dirty.add(name)
            # Asked for anew: to be answered even if nothing has changed, unless the client just said that it has it.
            if name not in initial_versions:
                self.forced.add(name)
            self.missing.discard(name)
        if "*" in unsubscribe:
            self.is_wildcard = False
            self.forced &= self.names
            self.sent = {known: version for known, version in self.sent.items() if known in self.names}
            self.held = {known: version for known, version in self.held.items() if known in self.names}
        for name in unsubscribe:
            self._leave(name)

    def _leave(self, name: str) -> None:
        was_asked_for = name in self.names
        self.names.discard(name)
        self.forced.discard(name)
        self.missing.discard(name)
        if not self.is_wildcard:
            self.sent.pop(name, None)
            self.held.pop(name, None)
        elif was_asked_for:
            # It may be one of all that there is, which the client cannot know: it must be told whether to keep it.
            self.force((name,))

    def wants(self, name: str) -> bool:
        """True when the client has asked for the resource."""
        return self.is_wildcard or name in self.names

    def note_changed(self, changed: Collection[str]) -> None:
        """What is available under these names is other than before."""
        self.dirty.update(changed)

    def force(self, forced: Collection[str]) -> None:
        """These must be sent although the client may have them."""
        self.forced.update(forced)
        self.dirty.update(forced)

    def plan(self, available: ByName, *, with_removals: bool = True) -> Plan:
        """What to send so that the client has `available`; empty when it has."""
        if self.is_all_dirty:
            self.dirty.update(available, self.sent)
            self.is_all_dirty = False
        due: list[Resource] = []
        gone: list[str] = []
        clean: list[str] = []
        for name in self.dirty:
            resource = available.get(name)
            if not self.wants(name):
                clean.append(name)
            elif resource is None and self._is_to_go(name):
                gone.append(name)
            elif resource is not None and self._is_due(resource):
                due.append(resource)
            else:
                clean.append(name)
        self.dirty.difference_update(clean)
        resources = tuple(sorted(due, key=_name_of))
        is_owed = self.is_wildcard and not self.is_answered
        return Plan(resources, tuple(sorted(gone)) if with_removals else (), is_owed)

    def _is_to_go(self, name: str) -> bool:
        return name in self.sent or (name not in self.missing and (name in self.names or name in self.forced))

    def _is_due(self, resource: Resource) -> bool:
        if self.held.get(resource.name) == resource.version:
            return False
        return resource.name in self.forced or self.sent.get(resource.name) != resource.version

    def note_sent(self, plan: Plan, nonce: str) -> None:
        """A response with this plan has been sent."""
        self.nonce = nonce
        self.is_answered = True
        self.outstanding = {resource.name: resource.version for resource in plan.resources}
        self.gone = plan.removed
        self.before = {name: self.sent[name] for name in (*self.outstanding, *self.gone) if name in self.sent}
        for resource in plan.resources:
            self.sent[resource.name] = resource.version
            self.forced.discard(resource.name)
            self.missing.discard(resource.name)
            self.held.pop(resource.name, None)
            self.dirty.discard(resource.name)
        for name in plan.removed:
            self.sent.pop(name, None)
            self.forced.discard(name)
            self.held.pop(name, None)
            if name in self.names:
                self.missing.add(name)

    def acknowledge(self, nonce: str) -> bool:
        """Take an ACK; False when it is not about the newest response."""
        if not nonce or nonce != self.nonce:
            return False
        self._has_taken(self.outstanding)
        return True

    def _has_taken(self, names: Iterable[str]) -> None:
        """The client keeps these of the outstanding response, if it wants them, however often it left them since."""
        for name in filter(self.wants, names):
            if name not in self.sent:
                self.sent[name] = self.outstanding[name]
                self.dirty.add(name)
        self.nonce, self.outstanding, self.gone, self.before = "", {}, (), {}

    def refuse(self, nonce: str, message: str) -> tuple[str, ...] | None:
        """Take a NACK: hold back what its message names, or all of the response when it names nothing.

        Where Envoy takes what is good in a response and names what is bad, it says so in certain words; with any others
        it may have taken nothing, and what is not held back is to be sent again. Returns the names that are held back,
        which are none for a response of removals, and None when the NACK is not about the newest response.
        """
        if not nonce or nonce != self.nonce:
            return None
        bad = [name for name in self.outstanding if _names(message, name)] or list(self.outstanding)
        for name in filter(self.wants, bad):
            self.held[name] = self.outstanding[name]
        is_partial = message.startswith(_PARTIAL) or not bad
        self._has_not_taken(bad if is_partial else (*self.outstanding, *self.gone))
        self._has_taken(self.outstanding.keys() - set(bad) if is_partial else ())
        return tuple(sorted(bad))

    def _has_not_taken(self, names: Iterable[str]) -> None:
        """The client has of these what it had before the outstanding response."""
        for name in names:
            self.dirty.add(name)
            self.missing.discard(name)
            if self.wants(name) and name in self.before:
                self.sent[name] = self.before[name]
            else:
                self.sent.pop(name, None)


def _name_of(resource: Resource) -> str:
    return resource.name


def _names(message: str, name: str) -> bool:
    """True when the words of a NACK name a resource: as a word of its own; echo.mesh does not name echo."""
    return re.search(rf"(?<![\w.@-]){re.escape(name)}(?![\w-]|\.\w)", message) is not None


@dataclass(slots=True)
class StateSubscription:
    """State of one type on a state-of-the-world stream.

    The client names all that it wants in each request. Responses of the types that may be asked for without names are
    whole (`is_whole`): what is left out is gone. Those of other types hold what has changed, and what goes is not told.
    `held` maps names to versions that the client has refused. A whole response cannot leave these out, so it holds what
    the client has taken last instead, which is in `good`. `sent` is what the client has in the end of the newest
    response, None when it is to be answered in any case. `has_named` tells that there have been names: from then on
    none means nothing, and not all there is.
    """

    names: frozenset[str] = frozenset()
    is_wildcard: bool = False
    is_whole: bool = True
    has_named: bool = False
    sent: dict[str, str] | None = None
    good: dict[str, Resource] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)
    outstanding: tuple[Resource, ...] = ()
    nonce: str = ""
    is_waiting: bool = False
    is_first: bool = True

    def request(self, wanted: Collection[str], *, may_be_wildcard: bool) -> None:
        """Take the names of a request. Names in a stale request count: the client sends them once."""
        self.is_whole = may_be_wildcard
        self.has_named = self.has_named or bool(wanted)
        is_wildcard = "*" in wanted or (may_be_wildcard and not self.has_named)
        named = frozenset(wanted) - {"*"}
        if self.is_first or (named, is_wildcard) != (self.names, self.is_wildcard):
            self.sent = self._sent_before(named, is_wildcard=is_wildcard)
        self.is_first = False
        self.names, self.is_wildcard = named, is_wildcard

    def _sent_before(self, named: frozenset[str], *, is_wildcard: bool) -> dict[str, str] | None:
        """What need not be sent to one who asks for these names now: in types that are not whole, what it kept."""
        if not named and not is_wildcard:
            return {}
        if self.is_whole:
            return None
        return {name: version for name, version in (self.sent or {}).items() if name in named}

    def plan(self, available: ByName) -> tuple[Resource, ...] | None:
        """The next response, or None when the client has it."""
        wanted = sorted(available if self.is_wildcard else self.names & set(available))
        acceptable = (self._acceptable(available[name]) for name in wanted)
        found = tuple(resource for resource in acceptable if resource is not None)
        if self.is_whole:
            return None if self.sent == _versions(found) else found
        # What has gone is to be sent should it come back, even if it is the same then.
        sent = self.sent = {name: version for name, version in (self.sent or {}).items() if name in available}
        return tuple(resource for resource in found if sent.get(resource.name) != resource.version) or None

    def _acceptable(self, resource: Resource) -> Resource | None:
        """The resource, or what the client has taken in the place of one that it refuses."""
        return self.good.get(resource.name) if self.held.get(resource.name) == resource.version else resource

    def note_sent(self, resources: tuple[Resource, ...], nonce: str) -> None:
        """A response with these resources has been sent."""
        kept = {} if self.is_whole else self.sent or {}
        self.sent = kept | _versions(resources)
        self.outstanding, self.nonce, self.is_waiting = resources, nonce, True

    def acknowledge(self, nonce: str) -> bool:
        """Take an ACK; False when it is not about the newest response, or has been taken."""
        if not self.is_waiting or nonce != self.nonce:
            return False
        self._take(self.outstanding)
        # What is wanted no more needs no remembrance.
        self.held = {name: version for name, version in self.held.items() if self._is_wanted(name)}
        return True

    def refuse(self, nonce: str, message: str) -> tuple[str, ...] | None:
        """Take a NACK: hold back what its message names, or all that was new when it names nothing.

        gRPC's client takes what is good in a response (gRFC A46). Returns the names that are held back, None when the
        NACK is not about the newest response, or has been taken.
        """
        if not self.is_waiting or nonce != self.nonce:
            return None
        versions = _versions(self.outstanding)
        bad = {name for name in versions if _names(message, name)} or {
            it.name for it in self.outstanding if it.name not in self.good or self.good[it.name].version != it.version
        }
        for name in bad:
            self.held[name] = versions[name]
        self._take(tuple(filter(None, map(self._acceptable, self.outstanding))))
        # A request for other names that came meanwhile is still to be answered.
        if self.sent is not None:
            refused = bad & self.sent.keys()
            kept = {name: version for name, version in self.sent.items() if name not in refused}
            self.sent = kept | {name: self.good[name].version for name in refused if name in self.good}
        return tuple(sorted(bad))

    def _take(self, resources: tuple[Resource, ...]) -> None:
        kept = {} if self.is_whole else {name: it for name, it in self.good.items() if self._is_wanted(name)}
        self.good = kept | {resource.name: resource for resource in resources}
        self.outstanding, self.is_waiting = (), False

    def _is_wanted(self, name: str) -> bool:
        return self.is_wildcard or name in self.names


def _versions(resources: Iterable[Resource]) -> dict[str, str]:
    return {resource.name: resource.version for resource in resources}
